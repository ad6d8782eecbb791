"""Arrow: a zero-shot gate from the adapter's own weights."""

from __future__ import annotations

from collections.abc import Sequence

from meteora_rs import _native
from meteora_rs.gate_kinds.gate import Gate
from meteora_rs.sites.site import Site


class ArrowGate(Gate):
    """Row = top right singular vector of B·A, unit norm; logit = |row · x| (Ostapenko et al. 2024, §3.2).

    Needs no data, so a new adapter is routable at once; a stopgap, since it knows what the adapter amplifies, not
    what it is for. Gates fitted on examples choose far better.
    """

    kind = "arrow"

    def __init__(self, adapter: _native.Adapter, sites: Sequence[Site]) -> None:
        super().__init__(sites)
        self._adapter = adapter

    def parts(self) -> tuple[None, _native.Adapter]:
        """The rows follow from the adapter."""
        return None, self._adapter
