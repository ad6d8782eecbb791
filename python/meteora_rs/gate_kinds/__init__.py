"""Where gate rows come from: one file for each kind, all written through the same two calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from meteora_rs import _native
from meteora_rs.gate_kinds.arrow import ArrowGate
from meteora_rs.gate_kinds.none import NoGate
from meteora_rs.gate_kinds.tensors import Row, TensorGate
from meteora_rs.sites.site import Site

Parts: TypeAlias = tuple[list[tuple[int, float, bool]] | None, _native.Adapter | None]
"""(address of the row, bias, whether sign-free) for each site; or the adapter whose arrow rows; or neither: zeros."""

GateSource: TypeAlias = str | Mapping[str, Row] | Sequence[str | tuple[str, str]]


__all__ = ["ArrowGate", "Gate", "GateSource", "NoGate", "Parts", "TensorGate", "resolve"]


class Gate(Protocol):
    """A gate that has been checked against the sites and only needs a place to be written to."""

    kind: str
    """`arrow`, `none`, `tensors`, `fitted` or `examples`."""

    def parts(self) -> Parts:
        """What the boundary makes its rows of; the addresses are good for as long as the gate lives."""
        ...

    def write(self, slot: int, *, like: int | None = None, clear: bool = False) -> None:
        """Fill row `slot` of every site's `gate` and `gate_bias`, in one call without the GIL; must not fail.

        `like`: a slot whose adapter this one becomes too, with the same rank rows; `clear`: `slot` is the base's, which
        has none.
        """
        ...


def resolve(gate: str | Mapping[str, Row], adapter: _native.Adapter, sites: Sequence[Site]) -> Gate:
    """The gate that `load_adapter(…, gate=…)` names: `"arrow"`, `"none"`, or a dict of tensors.

    Raises:
        ValueError: no such kind.
        AdapterFormatError: a dict of tensors that does not fit the sites.
    """
    if isinstance(gate, Mapping):
        return TensorGate(adapter.name, gate, sites)
    if gate == "arrow":
        return ArrowGate(adapter, sites)
    if gate == "none":
        return NoGate(sites)
    raise ValueError(f'gate must be "arrow", "none" or a dict of tensors, not {gate!r}; to fit gates: fit_gates()')
