"""Random state of one site at a real model's size, on the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from meteora_rs.ops.layout import PAGE_BYTES_PER_COLUMN, TableEntry, auto_record, pages, slot_rows
from torch import Tensor

# (in, out) of each linear.
SHAPES = {
    "8B q": (4096, 4096), "8B k": (4096, 1024), "8B gate": (4096, 14336), "8B down": (14336, 4096),
    "1B q": (2048, 2048), "1B k": (2048, 512), "1B gate": (2048, 8192), "1B down": (8192, 2048),
}  # fmt: skip
ADAPTERS = 28
RANKS = {"8": [8] * ADAPTERS, "16": [16] * ADAPTERS, "mixed": [(4, 8, 16, 64)[i % 4] for i in range(ADAPTERS)]}
DTYPE = torch.bfloat16
DEVICE = "cuda"  # tests put another in its place, to see that the scripts run


@dataclass
class SiteState:
    """The arguments of `gated_lora` for one site, base and x apart."""

    gate: Tensor
    gate_bias: Tensor
    lora_A: Tensor
    lora_B_packed: Tensor
    table: Tensor
    row_route: Tensor
    routes: Tensor
    entries: list[TableEntry]

    def call(self, base: Tensor, x: Tensor, top_k: int) -> Tensor:
        """The op."""
        state = (self.gate, self.gate_bias, self.lora_A, self.lora_B_packed, self.table, self.row_route, self.routes)
        out: Tensor = torch.ops.meteora_rs.gated_lora(base, x, *state, top_k, 1.0)
        return out

    def bytes(self, tokens: int, top_k: int, d_in: int, d_out: int) -> int:
        """The least that a call reads and writes: gates once, each chosen adapter's rows once, x, y twice."""
        used = min(ADAPTERS, tokens * top_k)
        rank = sum(entry.rank for entry in self.entries) / len(self.entries)
        rows = used * rank * (d_in + d_out) * DTYPE.itemsize
        return int(self.gate.numel() * 4 + rows + tokens * (d_in + 2 * d_out) * DTYPE.itemsize)


def make_site(d_in: int, d_out: int, ranks: Sequence[int], seed: int) -> SiteState:
    """A site with one adapter for each rank, gates that choose about evenly, one `Auto` route."""
    random = torch.Generator(DEVICE).manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random, device=DEVICE)

    entries, page = [], 0
    for rank in ranks:
        entries.append(TableEntry(page, rank, DTYPE, 2.0))
        page += pages(rank, DTYPE)
    pools = [torch.zeros(page * PAGE_BYTES_PER_COLUMN * w, dtype=torch.uint8, device=DEVICE) for w in (d_in, d_out)]
    for entry in entries:
        for pool, width in zip(pools, (d_in, d_out), strict=True):
            slot_rows(pool, entry, width).copy_(normal(entry.rank, width) / width**0.5)
    slots = len(ranks)
    ints = {"dtype": torch.int32, "device": DEVICE}
    record = auto_record(range(slots), slots)
    return SiteState(
        normal(slots, d_in) / d_in**0.5, torch.zeros(slots, device=DEVICE), pools[0], pools[1],
        torch.tensor([e.encode() for e in entries], **ints), torch.zeros(2, **ints),
        torch.tensor([record, record], **ints), entries,
    )  # fmt: skip
