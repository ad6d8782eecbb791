"""A live adapter, as it is listed."""

from __future__ import annotations

from dataclasses import dataclass

GIVEN = ("tensors", "fitted", "examples")
"""Kinds of gate that a reload leaves as they are and a bundle holds; the others follow from the weights."""


@dataclass(frozen=True)
class AdapterRecord:
    """A live adapter: what `Meteora.adapters()` lists.

    `pinned` is what `pin_adapter` said last; `kept` says that a fit or a training has it stay until it is done;
    `bytes` are those of its weights; `tier` says where they are; `gate` where its gate rows come from (`arrow` is a
    stopgap, `examples` a row from a few texts, `fitted` one from a whole fit); `routable` whether `Auto` may choose it;
    `generation` grows with each change of weights or gate, `weights` with those of weights alone.
    """

    name: str
    id: int
    generation: int
    weights: int
    slot: int
    rank: int
    dtype: str
    bytes: int
    sites: int
    pinned: bool
    gate: str
    routable: bool
    source: str
    tier: str = "device"
    kept: bool = False
