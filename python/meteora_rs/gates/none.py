"""No gate: the adapter is used by name only."""

from __future__ import annotations

from collections.abc import Sequence

from meteora_rs.site import Site


class NoGate:
    """Rows of zeros that no route lets the kernel read: `Auto` never chooses the adapter."""

    kind = "none"

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    def write(self, slot: int) -> None:
        """Fill row `slot` of every site."""
        for site in self._sites:
            site.kernel.write_gate(slot, None, 0.0, False)
