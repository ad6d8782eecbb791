"""Priors of classes, chosen by what they do to the model's loss on texts that never taught."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from meteora_rs.routes import Auto

from .data import Example
from .held_out import class_losses

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

    from .sweeps import Gates

TRIED = (1.0, 2.0, 4.0)
"""Nats."""

SHORT = 0.02
"""Nats a token by which a class's responses are worse routed than with its own adapter, to be worth a try."""

GAIN = 0.002
"""Nats a token that the mean over the classes must win: less is noise among a few texts."""

MOST = 4
"""Classes that are tried, those that lose most first."""


def choose_priors(
    meteora: Meteora,
    names: Sequence[str],
    gates: Gates,
    texts: Sequence[Example],
    own: Mapping[int, float],
    route: Auto,
    trying: Callable[[str], object],
) -> tuple[Gates, dict[str, float]]:
    """Gates with a prior for the classes that need one, and these priors; both are then in force.

    `gates` are in force at the entrance; `own` are the losses on `texts` with their own adapters (`own_losses`).

    A token that is given to another class costs one class little and another much, which the discriminant can't know:
    its classes are alike. So a class whose responses are worse routed than with its own adapter gets a prior, the
    same number of nats added to its bias at every input, as long as the mean loss over all classes falls. No priors
    without texts.
    """
    if not texts:
        return gates, {}
    best = class_losses(meteora, texts, route, top_k=1)
    priors: dict[str, float] = {}
    worst = sorted((label for label in own if best[label] - own[label] > SHORT), key=lambda at: own[at] - best[at])
    for label in worst[:MOST]:
        name = names[label]
        for prior in TRIED:
            trying(f"{name} {prior:+g}")
            meteora.set_gates({name: _raised(gates[name], prior)})
            now = class_losses(meteora, texts, route, top_k=1)
            if sum(now.values()) > sum(best.values()) - GAIN * len(best):
                break
            best, priors[name] = now, prior
        meteora.set_gates({name: _raised(gates[name], priors.get(name, 0.0))})
    return {name: _raised(rows, priors.get(name, 0.0)) for name, rows in gates.items()}, priors


def own_losses(meteora: Meteora, names: Sequence[str], texts: Sequence[Example]) -> dict[int, float]:
    """By label the loss on the responses of its texts with its own adapter, nats a token."""
    own: dict[int, float] = {}
    for label in {example.label for example in texts}:
        own |= class_losses(meteora, [each for each in texts if each.label == label], names[label], top_k=1)
    return own


def _raised(rows: dict[str, tuple[Tensor, float]], prior: float) -> dict[str, tuple[Tensor, float]]:
    return {path: (row, bias + prior) for path, (row, bias) in rows.items()}
