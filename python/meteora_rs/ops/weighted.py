"""The op with weights that are computed for each token: a gate of another form than `gate · x + gate_bias`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meteora_rs import ops

from .backward import products_backward
from .backward_on_device import products_backward_on_device
from .layout import ROUTE_FIXED, TableEntry, route_width
from .precision import without_autocast


@dataclass(frozen=True)
class TokenWeights:
    """Which slots each token uses, and with which weights; made once, for all sites that follow them.

    slots `[T, k]` int32: ascending, then -1. weights `[T, k]` float32, may be negative, may have a gradient. records
    `[T, width]` and row_route `[T]` int32: the same as one fixed route for each token.
    """

    slots: Tensor
    weights: Tensor
    records: Tensor
    row_route: Tensor

    @classmethod
    def of(cls, slots: Tensor, weights: Tensor, n_slots: int) -> TokenWeights:
        """From slots and weights; of each token's slots no -1 stands before another."""
        tokens, places = slots.shape
        records = torch.zeros(tokens, route_width(n_slots), dtype=torch.int32, device=slots.device)
        records[:, 0] = ROUTE_FIXED
        records[:, 1] = (slots >= 0).sum(1)
        records[:, 2 : 2 + 2 * places : 2] = slots.clamp(min=0)
        records[:, 3 : 3 + 2 * places : 2] = weights.detach().contiguous().view(torch.int32)
        return cls(slots, weights, records, torch.arange(tokens, dtype=torch.int32, device=slots.device))


def weighted_lora(
    base: Tensor,
    x: Tensor,
    chosen: TokenWeights,
    gate: Tensor,
    gate_bias: Tensor,
    lora_A: Tensor,
    lora_B_packed: Tensor,
    table: Tensor,
) -> Tensor:
    """y = base + Σ_i w_i · s_i · B_i (A_i x), by the kernels of `gated_lora`, with a gradient for the weights too.

    Shapes and dtypes as in `gated_lora`; gate and gate_bias are not read. Returns a new tensor like base.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
    """
    state = (chosen.slots, chosen.records, chosen.row_route, gate, gate_bias, lora_A, lora_B_packed, table)
    out: Tensor = _Weighted.apply(base, x, chosen.weights, *state)
    return out


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, weights: Tensor, *state: Tensor) -> Tensor:
        slots, records, row_route, gate, gate_bias, lora_a, lora_b, table = state
        ctx.save_for_backward(x, weights, slots, lora_a, lora_b, table)
        return ops.gated_lora(base, x, gate, gate_bias, lora_a, lora_b, table, row_route, records, 1, 1.0)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, slots, lora_a, lora_b, table = ctx.saved_tensors
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        dy, tokens = grad.reshape(-1, grad.shape[-1]).to(dtype), x.reshape(-1, x.shape[-1]).to(dtype)
        if grad.is_cuda:
            dx, dw = _on_device(dy, tokens, slots, weights.to(dtype), lora_a, lora_b, table)
        else:
            entries = [TableEntry.decode(row) for row in table.tolist()]
            dx, dw = products_backward(dy, tokens, slots, weights.to(dtype), lora_a, lora_b, entries)
        return (grad, dx.to(x.dtype).reshape(x.shape), dw.to(weights.dtype), *[None] * 8)


def _on_device(
    dy: Tensor, x: Tensor, slots: Tensor, weights: Tensor, lora_A: Tensor, lora_B_packed: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """`products_backward`, for which the host does not wait."""
    listed, at = slots >= 0, slots.clamp(min=0).long()

    def spread(values: Tensor) -> Tensor:
        return x.new_zeros(len(x), len(table)).scatter_add_(1, at, values)

    chosen = spread(listed.to(x.dtype)) > 0
    spread_weights = spread(torch.where(listed, weights, 0.0))
    dx, dw = products_backward_on_device(dy, x, spread_weights, chosen, lora_A, lora_B_packed, table)
    return dx, torch.where(listed, dw.gather(1, at), 0.0)
