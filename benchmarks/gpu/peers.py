"""Other ways to compute what `gated_lora` computes, for the same routes.

Plain torch forms, a plain Triton form, and the kernels of vLLM and punica where their packages are installed. Those two
take an adapter for each token: they are given the choice, made before the clock runs, and called once for each place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TypeAlias

import torch
from meteora_rs.ops.layout import slot_rows
from torch import Tensor

from benchmarks.gpu.sites import DTYPE, SiteState

Weights: TypeAlias = Sequence[Tensor]
"""A `[n, r, in]` and Bᵀ `[n, r, out]`."""
Work: TypeAlias = Callable[[], Tensor]
"""Makes the output."""


def choose(site: SiteState, x: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Slots and weights of each token, `[T, k]`."""
    best = torch.topk(x.float() @ site.gate.T + site.gate_bias, top_k, dim=-1)
    return best.indices, best.values.softmax(dim=-1)


def stacked(site: SiteState, d_in: int, d_out: int) -> tuple[Tensor, Tensor]:
    """A `[n, r, in]` and Bᵀ `[n, r, out]`, padded to the largest rank, scaled: made once, as a server would."""
    rank = max(entry.rank for entry in site.entries)
    a = torch.zeros(len(site.entries), rank, d_in, dtype=DTYPE, device=site.gate.device)
    b = torch.zeros(len(site.entries), rank, d_out, dtype=DTYPE, device=site.gate.device)
    for i, entry in enumerate(site.entries):
        a[i, : entry.rank] = slot_rows(site.lora_A, entry, d_in)
        b[i, : entry.rank] = slot_rows(site.lora_B_packed, entry, d_out) * entry.scaling
    return a, b


def gather_bmm(site: SiteState, weights: Weights, base: Tensor, x: Tensor, top_k: int) -> Tensor:
    """Each token's A and B gathered, two batched products."""
    a, b = weights
    slots, w = choose(site, x, top_k)
    u = torch.einsum("tkri,ti->tkr", a[slots], x) * w[..., None].to(x.dtype)
    return base + torch.einsum("tkr,tkro->to", u, b[slots])


def per_adapter_loop(site: SiteState, weights: Weights, base: Tensor, x: Tensor, top_k: int) -> Tensor:
    """A loop over adapters, each on all tokens under its weight (what a loop over PEFT's layers does, graph-safe)."""
    a, b = weights
    slots, w = choose(site, x, top_k)
    dense = torch.zeros(len(x), len(site.entries), device=x.device).scatter_(1, slots, w).to(x.dtype)
    for i in range(len(site.entries)):
        base = base + dense[:, i, None] * ((x @ a[i].T) @ b[i])
    return base


def triton(site: SiteState, weights: Weights, base: Tensor, x: Tensor, top_k: int) -> Tensor:
    """Two Triton kernels behind torch's choice."""
    from benchmarks.gpu.triton_peer import add_products

    slots, w = choose(site, x, top_k)
    return add_products(base.clone(), x, *weights, slots, w)


def vllm(site: SiteState, weights: Weights, base: Tensor, x: Tensor, top_k: int) -> Work:
    """vLLM's shrink and expand (0.32's, by its source), launched for the adapters in use alone."""
    from vllm.lora.ops.triton_ops import LoRAKernelMeta, lora_expand, lora_shrink

    a, b = weights[0], weights[1].transpose(1, 2).contiguous()
    slots, w = choose(site, x, top_k)
    mappings = []
    for place in range(top_k):
        meta = LoRAKernelMeta.make(len(a), len(x), device=x.device)
        meta.prepare_tensors(slots[:, place].int())
        try:
            mappings.append(meta.meta_args(len(x)))
        except TypeError:  # later releases ask whether to launch for the adapters at hand alone
            mappings.append(meta.meta_args(len(x), True))

    def work() -> Tensor:
        y = base.clone()
        for place, mapping in enumerate(mappings):
            u = torch.empty(1, len(x), a.shape[1], dtype=torch.float32, device=x.device)
            lora_shrink(x, [a], u, *mapping, 1.0)  # which zeroes u
            if top_k > 1:
                u *= w[:, place, None]
            lora_expand(u, [b], y, *mapping, offset_start=0, add_inputs=True)
        return y

    return work


def punica(site: SiteState, weights: Weights, base: Tensor, x: Tensor, top_k: int) -> Work:
    """Punica's bgmv (1.1.0's, by its source), with the weights multiplied into its inputs where there are several."""
    from punica.ops import add_lora_bgmv

    packed = [part[:, None].contiguous() for part in (weights[0], weights[1].transpose(1, 2))]
    slots, w = choose(site, x, top_k)
    places = [(slots[:, place].contiguous(), w[:, place, None].to(x.dtype)) for place in range(top_k)]

    def work() -> Tensor:
        y = base.clone()
        for slot, weight in places:
            add_lora_bgmv(y, x * weight if top_k > 1 else x, *packed, slot, 0, 1.0)
        return y

    return work


PEERS = {"gather + bmm": gather_bmm, "loop over adapters": per_adapter_loop, "triton": triton}
"""Those that choose for themselves."""
GIVEN = {"vllm": vllm, "punica": punica}
"""Those that are given the choice; each has the name of its package."""


def peers(site: SiteState, weights: Weights, base: Tensor, x: Tensor, top_k: int) -> dict[str, Work | str]:
    """Each peer's work, or why it has none."""
    found: dict[str, Work | str] = {}
    for name, peer in PEERS.items():
        if name == "triton" and find_spec("triton") is None:
            found[name] = "missing"
        else:
            found[name] = lambda peer=peer: peer(site, weights, base, x, top_k)  # type: ignore[misc]
    for name, prepare in GIVEN.items():
        try:
            found[name] = prepare(site, weights, base, x, top_k)
        except ImportError:
            found[name] = "missing"
        except Exception as error:  # another release of theirs, a shape that it lacks: said in the results
            found[name] = f"{type(error).__name__}: {error}"
    return found
