"""No gate: the adapter is used by name only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from meteora_rs.site import Site


class NoGate:
    """Rows of zeros that no route lets the kernel read: `Auto` never chooses the adapter."""

    kind = "none"

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    def write(self, slot: int) -> None:
        """Fill row `slot` of every site."""
        with torch.no_grad():
            for site in self._sites:
                site.gate.data[slot] = 0.0  # .data: see TensorGate.write
                site.gate_bias.data[slot] = 0.0
