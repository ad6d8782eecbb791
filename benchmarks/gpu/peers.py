"""Other ways to compute what `gated_lora` computes, for the same routes: plain torch forms.

Kernels of vLLM and punica need their packages and a fixed adapter for each token; they are not carried here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from meteora_rs.ops.layout import slot_rows
from torch import Tensor

from benchmarks.gpu.sites import SiteState


def choose(site: SiteState, x: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Slots and weights of each token, `[T, k]`."""
    best = torch.topk(x.float() @ site.gate.T + site.gate_bias, top_k, dim=-1)
    return best.indices, best.values.softmax(dim=-1)


def stacked(site: SiteState, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
    """A `[n, r, in]` and Bᵀ `[n, r, out]`, padded to the largest rank, scaled: made once, as a server would."""
    rank = max(entry.rank for entry in site.entries)
    a = torch.zeros(len(site.entries), rank, d_in, dtype=torch.bfloat16, device="cuda")
    b = torch.zeros(len(site.entries), rank, d_out, dtype=torch.bfloat16, device="cuda")
    for i, entry in enumerate(site.entries):
        a[i, : entry.rank] = slot_rows(site.lora_A, entry, d_in)
        b[i, : entry.rank] = slot_rows(site.lora_B_packed, entry, d_out) * entry.scaling
    return a, b


def gather_bmm(site: SiteState, weights: Sequence[Tensor], base: Tensor, x: Tensor, top_k: int) -> Tensor:
    """Each token's A and B gathered, two batched products."""
    a, b = weights
    slots, w = choose(site, x, top_k)
    u = torch.einsum("tkri,ti->tkr", a[slots], x) * w[..., None].to(x.dtype)
    return base + torch.einsum("tkr,tkro->to", u, b[slots])


def per_adapter_loop(site: SiteState, weights: Sequence[Tensor], base: Tensor, x: Tensor, top_k: int) -> Tensor:
    """A loop over adapters, each on all tokens under its weight (what a loop over PEFT's layers does, graph-safe)."""
    a, b = weights
    slots, w = choose(site, x, top_k)
    dense = torch.zeros(len(x), len(site.entries), device=x.device).scatter_(1, slots, w).to(x.dtype)
    for i in range(len(site.entries)):
        base = base + dense[:, i, None] * ((x @ a[i].T) @ b[i])
    return base


PEERS = {"gather + bmm": gather_bmm, "loop over adapters": per_adapter_loop}
