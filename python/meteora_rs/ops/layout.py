"""The memory layout of pools, table entries and route records; the contract is rust/core/src/layout.rs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAGE_ROWS = 8
PAGE_BYTES_PER_COLUMN = PAGE_ROWS * 2
KIND_ABS = 1 << 8
ROUTE_FIXED = 0
ROUTE_AUTO = 1
ENTRY_WIDTH = 4

DTYPE_OF_CODE = {0: torch.float32, 1: torch.float16, 2: torch.bfloat16}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}


@dataclass(frozen=True)
class TableEntry:
    """One slot of one site: a row of `table [slots, 4]` int32; rank 0 adds nothing."""

    page_start: int
    rank: int
    dtype: torch.dtype
    scaling: float
    sign_free: bool = False

    def encode(self) -> list[int]:
        """The four ints of the row: page_start, rank, kind, bits of the float32 scaling."""
        kind = CODE_OF_DTYPE[self.dtype] | (KIND_ABS if self.sign_free else 0)
        return [self.page_start, self.rank, kind, float_bits(self.scaling)]

    @staticmethod
    def decode(row: Sequence[int]) -> TableEntry:
        """The entry that a table row's four ints stand for; KeyError for an unknown dtype code."""
        page_start, rank, kind, bits = row
        dtype = DTYPE_OF_CODE[kind & 0xFF]
        return TableEntry(page_start, rank, dtype, bits_float(bits), bool(kind & KIND_ABS))


def float_bits(value: float) -> int:
    """The int32 with the bits of `value` as float32."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def bits_float(bits: int) -> float:
    """The float32 whose bits this int32 has."""
    return float(struct.unpack("<f", struct.pack("<i", bits))[0])


def pages(rank: int, dtype: torch.dtype) -> int:
    """Pages that `rank` rows of `dtype` take: ceil(rank / 8) · element size / 2."""
    return -(-rank // PAGE_ROWS) * dtype.itemsize // 2


def slot_rows(pool: Tensor, entry: TableEntry, width: int) -> Tensor:
    """A slot's rank rows in a uint8 pool, as a view `[rank, width]` of the slot's own dtype.

    The rows begin at byte `page_start · 16 · width`. The pool is `lora_A` (width: inputs) or
    `lora_B_packed` (width: outputs; the view is Bᵀ).
    """
    start = entry.page_start * PAGE_BYTES_PER_COLUMN * width
    size = entry.rank * width * entry.dtype.itemsize
    return pool[start : start + size].view(entry.dtype).view(entry.rank, width)


def route_width(slots: int) -> int:
    """Ints in a route record for `slots` slots."""
    return 2 + 2 * slots


def fixed_record(weights: Mapping[int, float], slots: int) -> list[int]:
    """The record of a fixed route: `[ROUTE_FIXED, count, (slot, weight bits)…]`, slots ascending."""
    record = [ROUTE_FIXED, len(weights)]
    for slot in sorted(weights):
        record += [slot, float_bits(weights[slot])]
    return record + [0] * (route_width(slots) - len(record))


def auto_record(candidates: Iterable[int], slots: int) -> list[int]:
    """The record of a route whose gates choose: `[ROUTE_AUTO, count, words of candidate bits…]`."""
    chosen = sorted(set(candidates))
    words = [0] * (-(-slots // 32))
    for slot in chosen:
        words[slot // 32] |= 1 << slot % 32
    # Bit 31 is the sign of an int32.
    signed = [word - (1 << 32) if word >> 31 else word for word in words]
    record = [ROUTE_AUTO, len(chosen), *signed]
    return record + [0] * (route_width(slots) - len(record))


def fixed_weights(record: Sequence[int]) -> dict[int, float]:
    """The slots and weights of a fixed record."""
    return {record[2 + 2 * i]: bits_float(record[3 + 2 * i]) for i in range(record[1])}


def auto_candidates(record: Sequence[int], slots: int) -> list[int]:
    """The slots that an auto record admits, ascending."""
    return [slot for slot in range(slots) if record[2 + slot // 32] >> slot % 32 & 1]
