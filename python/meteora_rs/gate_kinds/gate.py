"""What all kinds of gates have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeAlias

from meteora_rs import _native
from meteora_rs.sites.site import Site

Parts: TypeAlias = tuple[list[tuple[int, float, bool]] | None, _native.Adapter | None]
"""(address of the row, bias, whether sign-free) for each site; or the adapter whose arrow rows; or neither: zeros."""


class Gate(ABC):
    """A gate that has been checked against the sites and only needs a place to be written to."""

    kind: str
    """`arrow`, `none`, `tensors`, `fitted` or `examples`."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    @abstractmethod
    def parts(self) -> Parts:
        """What the boundary makes its rows of; the addresses are good for as long as the gate lives."""

    def write(self, slot: int, *, like: int | None = None, clear: bool = False) -> None:
        """Fill row `slot` of every site's `gate` and `gate_bias`, in one call without the GIL; must not fail.

        `like`: a slot whose adapter this one becomes too, with the same rank rows; `clear`: `slot` is the base's, which
        has none.
        """
        _native.write_gates([site.kernel for site in self._sites], slot, *self.parts(), like, clear)
