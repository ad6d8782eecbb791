"""The specification of `gated_lora`, in float64 on torch tensors: every backend is held against it.

Source: MeteoRA, arXiv 2405.13053, section 3 (a gate for each linear, top-k, softmax over the chosen), with a
bias for each gate row, routes that restrict the candidates, and sign-free rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import ROUTE_FIXED, TableEntry, auto_candidates, fixed_weights, slot_rows

# Kernels hold logits in float32: beyond this a sum is infinite there, so it counts as infinite here.
LARGEST = torch.finfo(torch.float32).max


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
    """Adds the chosen adapters' products to the base output.

    y = base + Σ_{i in S, slot ascending} w_i · s_i · B_i (A_i x)

    x `[…, in]` and base `[…, out]` of any float dtype; gate `[slots, in]` and gate_bias `[slots]` f32; lora_A
    and lora_B_packed uint8 pools; table `[slots, 4]` i32; row_route `[n]` i32, routes `[R, width]` i32: token
    t of T obeys `routes[row_route[t · n // T]]`. Returns float64 `[…, out]`; nothing is raised on purpose.
    """
    tokens = x.reshape(-1, x.shape[-1]).double()
    y = base.reshape(-1, base.shape[-1]).double().clone()
    g = logits(tokens, gate, gate_bias, table)
    slots, weights = select(g, row_route, routes, top_k, temperature)
    for slot, row in enumerate(table.tolist()):
        entry = TableEntry.decode(row)
        token, place = (slots == slot).nonzero(as_tuple=True)
        if entry.rank == 0 or len(token) == 0:
            continue
        a = slot_rows(lora_A, entry, x.shape[-1]).double()
        b_transposed = slot_rows(lora_B_packed, entry, base.shape[-1]).double()
        delta = entry.scaling * (tokens[token] @ a.T) @ b_transposed
        y[token] += weights[token, place, None] * delta
    return y.reshape(base.shape)


def logits(x: Tensor, gate: Tensor, gate_bias: Tensor, table: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The gate's score of each slot for each token, `[T, slots]` in `dtype`.

    g = gate · x + gate_bias; sign-free slots: |gate · x| + gate_bias. x is `[T, in]`.
    """
    dot = x.to(dtype) @ gate.to(dtype).T
    sign_free = torch.tensor([TableEntry.decode(row).sign_free for row in table.tolist()], device=x.device)
    return torch.where(sign_free, dot.abs(), dot) + gate_bias.to(dtype)


def select(g: Tensor, row_route: Tensor, routes: Tensor, top_k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Which slots each token uses, and with which weights.

    S = the top_k of g among the route's candidates, ties to the lowest slot; w = softmax(g[S] / temperature).
    A fixed route brings S and w. A NaN or -inf logit is never chosen, +inf counts as the largest float32.

    g is `[T, slots]`. Returns slots `[T, k]` int64, ascending, then -1, and weights `[T, k]` in g's dtype, 0
    where the slot is -1. k is top_k, or more where a fixed route has more.
    """
    total, n_slots = g.shape
    records = routes.tolist()
    width = max([top_k, *(record[1] for record in records if record[0] == ROUTE_FIXED)])
    chosen = torch.full((total, width), -1, dtype=torch.int64, device=g.device)
    weights = torch.zeros((total, width), dtype=g.dtype, device=g.device)
    route_of_token = row_route.long()[torch.arange(total, device=g.device) * len(row_route) // max(total, 1)]
    for route in sorted(set(route_of_token.tolist())):
        record = records[route]
        mine = (route_of_token == route).nonzero()[:, 0]
        if record[0] == ROUTE_FIXED:
            for place, (slot, weight) in enumerate(fixed_weights(record).items()):
                chosen[mine, place] = slot
                weights[mine, place] = weight
        else:
            candidates = auto_candidates(record, n_slots)
            places, scores = _top(g[mine], candidates, top_k)
            chosen[mine, : places.shape[1]] = places
            weights[mine, : places.shape[1]] = _softmax(scores, temperature)
    return chosen, weights


def _top(g: Tensor, candidates: list[int], top_k: int) -> tuple[Tensor, Tensor]:
    """The best slots `[T, min(top_k, slots)]`, ascending, then -1, and their scores (-inf where -1)."""
    admitted = torch.zeros(g.shape[1], dtype=torch.bool, device=g.device)
    admitted[candidates] = True
    usable = admitted & (g >= -LARGEST)  # false for NaN
    scores = torch.where(usable, g, -torch.inf).clamp(max=LARGEST)
    scores = torch.where(usable, scores, -torch.inf)
    order = scores.sort(dim=1, descending=True, stable=True)  # stable: the lowest slot wins a tie
    best, places = order.values[:, :top_k], order.indices[:, :top_k]
    by_slot = torch.where(best > -torch.inf, places, g.shape[1]).sort(dim=1)
    places = torch.where(by_slot.values < g.shape[1], by_slot.values, -1)
    return places, best.gather(1, by_slot.indices)


def _softmax(scores: Tensor, temperature: float) -> Tensor:
    """softmax(scores / temperature) along the last dimension; all 0 where every score is -inf."""
    if scores.shape[1] == 0:
        return scores
    best = scores.max(dim=1, keepdim=True).values
    # The maximum is taken off first: the largest float divided by a small temperature would overflow.
    powers = torch.where(scores > -torch.inf, ((scores - best) / temperature).exp(), 0.0)
    return powers / powers.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
