"""Random arguments for `gated_lora`, in the layout that kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from meteora_rs.ops.layout import PAGE_BYTES_PER_COLUMN, TableEntry, pages, route_width, slot_rows
from torch import Tensor


@dataclass(frozen=True)
class OpCase:
    """The arguments of one call, in its order."""

    base: Tensor
    x: Tensor
    gate: Tensor
    gate_bias: Tensor
    lora_A: Tensor
    lora_B_packed: Tensor
    table: Tensor
    row_route: Tensor
    routes: Tensor
    top_k: int
    temperature: float

    def args(self) -> tuple[Any, ...]:
        """As positional arguments."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def entries(self) -> list[TableEntry]:
        """The table, decoded."""
        return [TableEntry.decode(row) for row in self.table.tolist()]

    def weights_of(self, slot: int) -> tuple[Tensor, Tensor]:
        """A and Bᵀ of a slot, as views."""
        entry = self.entries()[slot]
        a = slot_rows(self.lora_A, entry, self.x.shape[-1])
        return a, slot_rows(self.lora_B_packed, entry, self.base.shape[-1])

    def with_routes(self, records: Sequence[Sequence[int]], row_route: Sequence[int]) -> OpCase:
        """The same call under other routes."""
        return replace(
            self,
            routes=torch.tensor(records, dtype=torch.int32).reshape(-1, route_width(len(self.gate))),
            row_route=torch.tensor(row_route, dtype=torch.int32),
        )


def make_case(
    ranks: Sequence[int],
    records: Sequence[Sequence[int]],
    row_route: Sequence[int],
    *,
    shape: tuple[int, ...] = (2, 5),
    d_in: int = 24,
    d_out: int = 17,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.float16, torch.bfloat16),
    sign_free: Sequence[int] = (),
    x_dtype: torch.dtype = torch.float32,
    top_k: int = 2,
    temperature: float = 1.0,
    seed: int = 0,
) -> OpCase:
    """A case with one slot for each rank, dtypes dealt out in turn, pages in reverse order of slots."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=random)

    entries: list[TableEntry] = []
    page = 0
    for slot in reversed(range(len(ranks))):
        dtype = dtypes[slot % len(dtypes)]
        entries.insert(0, TableEntry(page, ranks[slot], dtype, 0.5 + slot, slot in sign_free))
        page += pages(ranks[slot], dtype)
    lora_a = torch.full((page * PAGE_BYTES_PER_COLUMN * d_in,), 0xFF, dtype=torch.uint8)
    lora_b = torch.full((page * PAGE_BYTES_PER_COLUMN * d_out,), 0xFF, dtype=torch.uint8)
    for entry in entries:
        slot_rows(lora_a, entry, d_in).copy_(normal(entry.rank, d_in) / d_in**0.5)
        slot_rows(lora_b, entry, d_out).copy_(normal(entry.rank, d_out))
    case = OpCase(
        base=normal(*shape, d_out).to(x_dtype),
        x=normal(*shape, d_in).to(x_dtype),
        gate=normal(len(ranks), d_in) / d_in**0.5,
        gate_bias=normal(len(ranks)) / 4,
        lora_A=lora_a,
        lora_B_packed=lora_b,
        table=torch.tensor([entry.encode() for entry in entries], dtype=torch.int32),
        row_route=torch.empty(0, dtype=torch.int32),
        routes=torch.empty(0, dtype=torch.int32),
        top_k=top_k,
        temperature=temperature,
    )
    return case.with_routes(records, row_route)
