"""Arrow: a zero-shot gate from the adapter's own weights."""

from __future__ import annotations

from collections.abc import Sequence

from meteora_rs import _native
from meteora_rs.sites.site import Site


class ArrowGate:
    """Row = top right singular vector of B·A, unit norm; logit = |row · x| (Ostapenko et al. 2024, §3.2).

    Needs no data, so a new adapter is routable at once; a stopgap, since it knows what the adapter amplifies, not
    what it is for. Gates fitted on examples choose far better.
    """

    kind = "arrow"

    def __init__(self, adapter: _native.Adapter, sites: Sequence[Site]) -> None:
        self._adapter, self._sites = adapter, sites

    def parts(self) -> tuple[None, _native.Adapter]:
        """The rows follow from the adapter."""
        return None, self._adapter

    def write(self, slot: int, *, like: int | None = None, clear: bool = False) -> None:
        """Fill row `slot` of every site."""
        _native.write_gates([site.kernel for site in self._sites], slot, *self.parts(), like, clear)
