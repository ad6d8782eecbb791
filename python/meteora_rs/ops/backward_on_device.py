"""The gradient of `gated_lora` where the host must not wait to see what a tensor holds: on a device, in a graph."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import DTYPE_OF_CODE, KIND_ABS, PAGE_BYTES_PER_COLUMN, ROUTE_AUTO, ROUTE_FIXED
from .reference import LARGEST


def backward_on_device(
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
    """What `gated_lora_backward` returns, by products over all rows of the pools: no shape hangs on a value.

    That is `rows / chosen rows` times the work, on a device that has it to spare. What the rows of a broken adapter
    would make infinite or NaN in the gradient of x counts as 0.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    tokens = x.reshape(-1, x.shape[-1]).to(dtype)
    dy = grad_out.reshape(-1, grad_out.shape[-1]).to(dtype)
    dot = tokens @ gate.to(dtype).T
    sign_free = (table[:, 2] & KIND_ABS) != 0
    g = torch.where(sign_free, dot.abs(), dot) + gate_bias.to(dtype)
    weights, gated = _choose(g, row_route, routes, top_k, temperature)
    dx, dw = products_backward_on_device(dy, tokens, weights, weights != 0, lora_A, lora_B_packed, table)

    mixed = (weights * dw).sum(dim=1, keepdim=True)
    dg = torch.where(gated & (g <= LARGEST), weights * (dw - mixed) / temperature, 0.0)
    signed = torch.where(sign_free & (dg != 0), dg * torch.sign(dot), dg)
    dx += signed @ _finite(gate.to(dtype))
    return dx.to(x.dtype).reshape(x.shape), (signed.T @ tokens).to(gate.dtype), dg.sum(0).to(gate_bias.dtype)


def _choose(g: Tensor, row_route: Tensor, routes: Tensor, top_k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """`reference.select` as weights `[T, slots]`, and which of them the gates chose."""
    total, slots = g.shape
    each = torch.arange(slots, device=g.device)
    kind, count, rest = routes[:, :1], routes[:, 1:2], routes[:, 2:]
    admitted = (kind == ROUTE_AUTO) & ((rest[:, each // 32] >> (each % 32)) & 1 == 1)
    pairs = rest.reshape(-1, slots, 2)
    listed = (kind == ROUTE_FIXED) & (each < count)
    given = torch.where(listed, pairs[:, :, 1].contiguous().view(torch.float32), 0.0).to(g.dtype)
    fixed = torch.zeros_like(given).scatter_add_(1, torch.where(listed, pairs[:, :, 0], 0).long(), given)

    route = row_route.long()[torch.arange(total, device=g.device) * len(row_route) // max(total, 1)]
    usable = admitted[route] & (g >= -LARGEST)  # false for NaN
    scores = torch.where(usable, g.clamp(max=LARGEST), -torch.inf)
    order = scores.sort(dim=1, descending=True, stable=True).indices  # stable: the lowest slot wins a tie
    chosen = torch.zeros_like(usable).scatter_(1, order[:, :top_k], True) & usable
    powers = torch.where(chosen, ((scores - scores.amax(dim=1, keepdim=True)) / temperature).exp(), 0.0)
    shares = powers / powers.sum(dim=1, keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    return torch.where(chosen, shares, fixed[route]), chosen


def products_backward_on_device(
    dy: Tensor, x: Tensor, weights: Tensor, chosen: Tensor, lora_A: Tensor, lora_B_packed: Tensor, table: Tensor
) -> tuple[Tensor, Tensor]:
    """`products_backward` for weights and choices `[T, slots]`: dx, and dw `[T, slots]`, 0 where nothing was chosen."""
    dx, dw = torch.zeros_like(x), torch.zeros_like(weights)
    scaling = table[:, 3:].contiguous().view(torch.float32).to(x.dtype)
    for code, element in DTYPE_OF_CODE.items():
        rows_of_page = PAGE_BYTES_PER_COLUMN // element.itemsize
        a = lora_A.view(element).view(-1, x.shape[1]).to(x.dtype)
        b = lora_B_packed.view(element).view(-1, dy.shape[1]).to(x.dtype)
        row = torch.arange(len(a), device=x.device)
        start = table[:, :1] * rows_of_page
        owned = (table[:, 2:3] & 0xFF == code) & (row >= start) & (row < start + table[:, 1:2])
        scaled = torch.where(owned, scaling, 0.0)
        used = chosen.to(x.dtype) @ owned.to(x.dtype) > 0
        v = dy @ b.T
        # Rows of others, and what only looks like rows of this type, may hold anything: their products are dropped.
        dx += torch.where(used, (weights @ scaled) * v, 0.0) @ _finite(a)
        dw += torch.where(used, (x @ a.T) * v, 0.0) @ scaled.T
    return dx, torch.where(chosen, dw, 0.0)


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(0.0, 0.0, 0.0)
