"""Gate rows as they are in a slot, whatever kind they are of."""

from __future__ import annotations

from collections.abc import Sequence

from meteora_rs.gate_kinds.gate import Gate
from meteora_rs.sites.site import Site

SIGN_FREE = 1 << 8
"""The bit of a table entry's kind that says so (rust/core/src/layout.rs)."""


class SavedGate(Gate):
    """A copy of the rows of one slot, sign-free ones included, to be written back."""

    def __init__(self, slot: int, kind: str, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self.kind = kind
        self._rows = [(site.gate[slot].cpu().clone(), float(site.gate_bias[slot])) for site in sites]
        self._sign_free = [bool(int(site.table[slot, 2]) & SIGN_FREE) for site in sites]

    def parts(self) -> tuple[list[tuple[int, float, bool]], None]:
        """The rows, by address."""
        rows = zip(self._rows, self._sign_free, strict=True)
        return [(row.data_ptr(), bias, sign_free) for (row, bias), sign_free in rows], None
