"""The op alone at real sizes: µs a call, bytes a second against a copy, and peers on the same routes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import sites as state
from benchmarks.gpu.peers import Work, peers, stacked
from benchmarks.gpu.sites import DTYPE, RANKS, SHAPES, SiteState, make_site
from benchmarks.gpu.timing import in_graph, keep

TOKENS = (1, 4, 16, 64, 512, 2048)
KINDS = (("8", 2), ("mixed", 2), ("16", 1))  # ranks, top_k
COLD = 256 << 20  # bytes of sites to go round, so that no cache holds the next one
COPIED = 1 << 30
PEER_TOKENS = 64  # gathers of each token's weights are out of all proportion beyond


def copy_rate() -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=state.DEVICE)
    target = torch.empty_like(source)
    micros, _ = in_graph(lambda: target.copy_(source), 1)
    return 2 * source.numel() / micros * 1e6


def make_sites(shape: str, ranks: str) -> list[SiteState]:
    """As many as no cache holds."""
    d_in, d_out = SHAPES[shape]
    first = make_site(d_in, d_out, RANKS[ranks], 0)
    each = first.gate.numel() * 4 + first.lora_A.numel() + first.lora_B_packed.numel()
    return [first, *(make_site(d_in, d_out, RANKS[ranks], seed) for seed in range(1, max(2, -(-COLD // each))))]


def measure(sites: list[SiteState], shape: str, ranks: str, top_k: int, tokens: int, rate: float) -> dict[str, Any]:
    """One row: our time, its share of the copy's rate, each peer's ratio to it."""
    d_in, d_out = SHAPES[shape]
    first = sites[0]
    x = torch.randn(tokens, d_in, device=state.DEVICE).to(DTYPE)
    base = torch.randn(tokens, d_out, device=state.DEVICE).to(DTYPE)
    micros, spread = in_graph(lambda: [site.call(base, x, top_k) for site in sites], len(sites))
    row: dict[str, Any] = {"shape": shape, "ranks": ranks, "top_k": top_k, "tokens": tokens, "us": micros,
                           "spread_us": spread}  # fmt: skip
    row["of_copy"] = first.bytes(tokens, top_k, d_in, d_out) / micros * 1e6 / rate
    if tokens <= PEER_TOKENS:
        packed = [stacked(site, d_in, d_out) for site in sites[:4]]
        each_site = [peers(s, w, base, x, top_k) for s, w in zip(sites[:4], packed, strict=False)]
        for name in each_site[0]:
            row[name] = ratio([found[name] for found in each_site], micros)
    return row


def ratio(works: list[Work | str], micros: float) -> float | str:
    """A peer's time over `micros`, or what keeps it from having one."""
    runnable = [work for work in works if not isinstance(work, str)]
    if len(runnable) < len(works):
        return next(work for work in works if isinstance(work, str))
    try:
        return in_graph(lambda: [work() for work in runnable], len(runnable))[0] / micros
    except Exception as error:  # another's kernels, which may not go into a graph, or not at this size
        return f"{type(error).__name__}: {error}"


def main(out: Path) -> None:
    """Measure; rows are written as they come, so that a time limit loses only what is left."""
    rate = copy_rate()
    rows: list[dict[str, Any]] = []
    sites = {(shape, ranks): make_sites(shape, ranks) for shape in SHAPES for ranks, _ in KINDS}  # some 10 GB
    for tokens in TOKENS:
        for shape in SHAPES:
            for ranks, top_k in KINDS:
                rows.append(measure(sites[shape, ranks], shape, ranks, top_k, tokens, rate))
                print(rows[-1], flush=True)
                keep({"copy_bytes_a_second": rate, "rows": rows}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
