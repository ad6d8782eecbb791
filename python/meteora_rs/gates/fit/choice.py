"""Which of two fits is taken, and how it mixes: by the loss on texts that never taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .first_input import leave_first_input
from .held_out import HeldOut
from .priors import choose_priors

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

    from .sweeps import Gates


CLOSED, REFINED = "closed form", "refined"

NOISE = 0.005
"""Nats a token by which held-out losses differ without a reason: as much as from reading in bf16 or in float32."""


@dataclass(frozen=True)
class Candidate:
    """Gates, and the share of kept-back tokens that they route right as they are."""

    gates: Gates
    right: float


@dataclass(frozen=True)
class Chosen:
    """Gates with their priors; and by name the losses of all that were tried, nats a token (none without a choice).

    refined: whether these are the refined ones; loss: of these gates, one adapter a token; None if no text is held out;
    first_to_base: whether the model's first input is left to the base.
    """

    gates: Gates
    refined: bool
    priors: dict[str, float]
    losses: dict[str, float]
    loss: float | None
    first_to_base: bool = False


def choose_gates(meteora: Meteora, tried: Mapping[str, Candidate], held: HeldOut) -> Chosen:
    """Of some gates those with the least loss on held-out texts; then in force.

    Each with the priors that it needs, and the first input left to the base if that costs nothing.

    Of those within `NOISE` of it, the ones that route most kept-back tokens right: there are a hundred tokens to a
    text. The first of `tried`, without priors, if no text is held out.
    """
    if not held.texts:
        first = next(iter(tried.values())).gates
        meteora.set_gates(first)
        return Chosen(first, False, {}, {}, None)
    found = {}
    for name, candidate in tried.items():
        meteora.set_gates(candidate.gates)
        held.trying(name)
        # Priors first: without them refined rows may leave much to the base, which one nat mends.
        gates, priors, losses = choose_priors(meteora, candidate.gates, held, held.routed())
        found[name] = priors, *leave_first_input(meteora, gates, held, losses)
    means = {name: held.mean(losses) for name, (_, _, losses, _) in found.items()}
    near = [name for name in means if means[name] <= min(means.values()) + NOISE]
    best = max(near, key=lambda name: tried[name].right)
    priors, gates, _, left = found[best]
    meteora.set_gates(gates)
    return Chosen(gates, best == REFINED, priors, means if len(means) > 1 else {}, means[best], left)
