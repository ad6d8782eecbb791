"""`gated_lora` in plain, differentiable torch in one dtype: the measure of the tolerance rule."""

from __future__ import annotations

import torch
from meteora_rs.ops.layout import ROUTE_AUTO
from meteora_rs.ops.reference import logits, select
from op_case import OpCase
from torch import Tensor


def reference_slots(case: OpCase) -> tuple[Tensor, Tensor]:
    """The float64 selection: slots and weights, each `[T, k]`."""
    tokens = case.x.reshape(-1, case.x.shape[-1])
    g = logits(tokens, case.gate, case.gate_bias, case.table)
    return select(g, case.row_route, case.routes, case.top_k, case.temperature)


def plain_gated_lora(
    case: OpCase, base: Tensor, x: Tensor, gate: Tensor, gate_bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """The op with every intermediate in `dtype`, over the slots that float64 selects.

    Near ties would be decided otherwise in a coarse dtype; the choice is held fixed so that only rounding
    shows. base, x, gate and gate_bias stand in for the case's own, so that autograd can follow them.
    """
    slots, fixed = reference_slots(case)
    total = len(slots)
    tokens = x.reshape(total, -1).to(dtype)
    y = base.reshape(total, -1).to(dtype)
    row = torch.arange(total) * len(case.row_route) // max(total, 1)
    gated = case.routes[case.row_route.long()[row], 0] == ROUTE_AUTO

    dots = tokens @ gate.to(dtype).T
    sign_free = torch.tensor([entry.sign_free for entry in case.entries()])
    g = torch.where(sign_free, dots.abs(), dots) + gate_bias.to(dtype)
    picked = g.gather(1, slots.clamp(min=0)).masked_fill(slots < 0, -torch.inf) / case.temperature
    soft = torch.where(slots >= 0, picked.masked_fill((slots < 0).all(1, keepdim=True), 0.0).softmax(1), 0.0)
    weights = torch.where(gated[:, None], soft, fixed.to(dtype))

    for slot, entry in enumerate(case.entries()):
        a, b_transposed = (part.to(dtype) for part in case.weights_of(slot))
        weight = torch.where(slots == slot, weights, 0.0).sum(1, keepdim=True)
        used = (slots == slot).any(1, keepdim=True)
        y = y + torch.where(used, weight * entry.scaling * ((tokens @ a.T) @ b_transposed), 0.0)
    return y.reshape(base.shape)


def plain(case: OpCase, dtype: torch.dtype) -> Tensor:
    """The op on the case's own tensors in `dtype`."""
    return plain_gated_lora(case, case.base, case.x, case.gate, case.gate_bias, dtype)
