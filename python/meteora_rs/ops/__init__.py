"""The torch op `meteora_rs::gated_lora`: one schema for every backend, with a fake kernel and gradients.

    y = base + Σ_{i in S} w_i · s_i · B_i (A_i x),   S, w = top-k and softmax of gate · x + gate_bias

`reference.py` is the specification; the CPU kernel comes from `meteora_rs._native`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.ops.backward import gated_lora_backward
from meteora_rs.ops.backward_on_device import backward_on_device
from meteora_rs.ops.precision import without_autocast
from meteora_rs.ops.transforms import refuse_export as refuse_export
from meteora_rs.ops.transforms import refuse_transforms as refuse_transforms

_native.register_torch_op(torch.__file__)

Grads = tuple[Tensor | None, ...]


def gated_lora(
    base: Tensor,
    x: Tensor,
    gate: Tensor,
    gate_bias: Tensor,
    lora_A: Tensor,
    lora_B_packed: Tensor,
    table: Tensor,
    row_route: Tensor,
    routes: Tensor,
    top_k: int,
    temperature: float,
) -> Tensor:
    """The routed adapters' products added to `base`, a new tensor of its shape and dtype.

    Args:
        base: `[..., out]`, float32, float16 or bfloat16.
        x: `[..., in]`, the linear's input, the same leading shape.
        gate: `[slots, in]` float32.
        gate_bias: `[slots]` float32.
        lora_A: pool of pages, uint8 (rust/core/src/layout.rs).
        lora_B_packed: pool of pages, uint8; B transposed.
        table: `[slots, 4]` int32: page start, rank, kind, bits of the float32 scaling.
        row_route: `[n]` int32; token t of T takes record `row_route[t * n // T]`.
        routes: `[R, 2 + 2 * slots]` int32 records.
        top_k: adapters that a token may mix.
        temperature: T of the softmax.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
    """
    out: Tensor = torch.ops.meteora_rs.gated_lora(
        base, x, gate, gate_bias, lora_A, lora_B_packed, table, row_route, routes, top_k, temperature
    )
    return out


@torch.library.register_fake("meteora_rs::gated_lora")  # type: ignore[untyped-decorator]
def _fake(base: Tensor, *_: Any) -> Tensor:
    return torch.empty(base.shape, dtype=base.dtype, device=base.device)


# An op of its own, so that its loops over slots are opaque to tracing.
_backward_op = torch.library.custom_op(
    "meteora_rs::gated_lora_backward", without_autocast(gated_lora_backward), mutates_args=()
)
_backward_op.register_kernel("cuda")(without_autocast(backward_on_device))


@_backward_op.register_fake
def _fake_backward(grad_out: Tensor, x: Tensor, gate: Tensor, gate_bias: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), torch.empty_like(gate), torch.empty_like(gate_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *tensors, ctx.top_k, ctx.temperature = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> Grads:
    _, wants_x, wants_gate, wants_bias, *_rest = ctx.needs_input_grad
    grads: Grads = (None, None, None)
    if wants_x or wants_gate or wants_bias:
        grads = _backward_op(grad, *ctx.saved_tensors, ctx.top_k, ctx.temperature)
    return (grad, *grads, *[None] * 7)


torch.library.register_autograd("meteora_rs::gated_lora", _backward, setup_context=_setup_context)
