"""Where gate rows come from: one file for each kind, all written through the same two calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from meteora_rs import _native
from meteora_rs.gate_kinds.arrow import ArrowGate
from meteora_rs.gate_kinds.gate import Gate
from meteora_rs.gate_kinds.none import NoGate
from meteora_rs.gate_kinds.tensors import Row, TensorGate
from meteora_rs.sites.site import Site

GateSource: TypeAlias = str | Mapping[str, Row] | Sequence[str | tuple[str, str]]


__all__ = ["ArrowGate", "Gate", "GateSource", "NoGate", "TensorGate", "resolve"]


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
