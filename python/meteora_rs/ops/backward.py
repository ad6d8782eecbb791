"""The gradient of `gated_lora` with respect to its input and its gates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layout import ROUTE_AUTO, TableEntry, slot_rows
from .reference import LARGEST, logits, select


def gated_lora_backward(
    grad_out: Tensor,
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x, gate and gate_bias; the gradient for base is `grad_out` itself.

    With dy = grad_out, the chosen set S (recomputed, held constant), u_i = A_i x and v_i = B_iᵀ dy:

        dw_i = s_i · u_iᵀ v_i
        dg_i = w_i (dw_i - Σ_{j in S} w_j dw_j) / temperature      0 on fixed routes
        dx   = Σ_{i in S} w_i s_i A_iᵀ v_i + c_i dg_i gate_i       c_i = sign(gate_i · x) if sign-free, else 1
        dgate_i = Σ_tokens c_i dg_i x,   dgate_bias_i = Σ_tokens dg_i

    Shapes as in the forward, grad_out `[…, out]`. Returns `[…, in]` in x's dtype and `[slots, in]`, `[slots]`
    in the gate's; sums are float64 for float64 x, else float32. Nothing is raised on purpose.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tokens = x.reshape(-1, x.shape[-1]).to(dtype)
    dy = grad_out.reshape(-1, grad_out.shape[-1]).to(dtype)
    g = logits(tokens, gate, gate_bias, table, dtype)
    slots, weights = select(g, row_route, routes, top_k, temperature)
    entries = [TableEntry.decode(row) for row in table.tolist()]
    dx, dw = products_backward(dy, tokens, slots, weights, lora_A, lora_B_packed, entries)

    dg = _through_softmax(slots, weights, dw, g, _gated(row_route, routes, len(tokens)), temperature)
    signs = torch.ones_like(g)
    sign_free = [slot for slot, entry in enumerate(entries) if entry.sign_free]
    signs[:, sign_free] = torch.sign(tokens @ gate[sign_free].to(dtype).T)
    signed = dg * signs
    # A row with an infinite or NaN entry has no gradient, and 0 · inf must not make one.
    dx += signed @ gate.to(dtype).nan_to_num(0.0, 0.0, 0.0)
    return dx.to(x.dtype).reshape(x.shape), (signed.T @ tokens).to(gate.dtype), dg.sum(0).to(gate_bias.dtype)


def products_backward(
    dy: Tensor,
    x: Tensor,
    slots: Tensor,
    weights: Tensor,
    lora_A: Tensor,
    lora_B_packed: Tensor,
    entries: Sequence[TableEntry],
) -> tuple[Tensor, Tensor]:
    """Gradients of Σ_i w_i · s_i · B_i (A_i x) for x and the weights, with what is chosen held constant.

    dy `[T, out]` and x `[T, in]` of one float dtype; slots `[T, k]` integers (-1: none), weights `[T, k]`. Returns
    dx `[T, in]`, the part that does not pass through the weights, and dw `[T, k]`.
    """
    dx, dw = torch.zeros_like(x), torch.zeros_like(weights)
    for slot, entry in enumerate(entries):
        token, place = (slots == slot).nonzero(as_tuple=True)
        if entry.rank == 0 or len(token) == 0:
            continue
        a = slot_rows(lora_A, entry, x.shape[-1]).to(x.dtype)
        v = entry.scaling * (dy[token] @ slot_rows(lora_B_packed, entry, dy.shape[-1]).to(x.dtype).T)
        dw[token, place] = ((x[token] @ a.T) * v).sum(dim=1)
        dx.index_add_(0, token, (weights[token, place, None] * v) @ a)
    return dx, dw


def _through_softmax(
    slots: Tensor, weights: Tensor, dw: Tensor, g: Tensor, gated: Tensor, temperature: float
) -> Tensor:
    """The gradient of the logits, `[T, slots]`: zero outside S, on fixed routes, and where g was clamped."""
    dg = weights * (dw - (weights * dw).sum(dim=1, keepdim=True)) / temperature
    live = (slots >= 0) & gated[:, None]
    spread = torch.zeros_like(g)
    spread.scatter_add_(1, slots.clamp(min=0), torch.where(live, dg, 0.0))
    return torch.where(g > LARGEST, 0.0, spread)


def _gated(row_route: Tensor, routes: Tensor, total: int) -> Tensor:
    """Which of the tokens have a route that leaves the choice to the gates, `[T]` bool."""
    row = torch.arange(total, device=routes.device) * len(row_route) // max(total, 1)
    return routes[:, 0][row_route.long()[row]] == ROUTE_AUTO
