"""No gate: the adapter is used by name only."""

from __future__ import annotations

from collections.abc import Sequence

from meteora_rs import _native
from meteora_rs.sites.site import Site


class NoGate:
    """Rows of zeros that no route lets the kernel read: `Auto` never chooses the adapter."""

    kind = "none"

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    def parts(self) -> tuple[None, None]:
        """Zeros."""
        return None, None

    def write(self, slot: int, *, like: int | None = None, clear: bool = False) -> None:
        """Fill row `slot` of every site."""
        _native.write_gates([site.kernel for site in self._sites], slot, *self.parts(), like, clear)
