"""Priors of classes, chosen by what they do to the model's loss on texts that never taught."""

from __future__ import annotations

from torch import Tensor

from meteora_rs.serving.gating import Gating

from .held_out import HeldOut, Losses
from .sweeps import Gates

TRIED = (1.0, 2.0, 4.0)
"""Nats."""

SHORT = 0.02
"""Nats a token by which a class's responses are worse routed than with its own adapter, to be worth a try."""

GAIN = 0.002
"""Nats a token that the classes must win in the mean: less is noise among a few texts."""

MOST = 4
"""Classes that are tried, those that lose most first."""

LOW = 10
"""One input in so many, from the first on, is left without. Low layers know little of whose text it is: there a prior
takes what it does not win elsewhere, and all layers above read what comes of it.
"""


def choose_priors(
    meteora: Gating, gates: Gates, held: HeldOut, routed: Losses
) -> tuple[Gates, dict[str, float], Losses]:
    """Gates with a prior for the classes that need one, in force at the end; these priors; and the losses with them.

    `gates` are in force at the entrance, with losses `routed`.

    A token that is given to another class costs one class little and another much, which the discriminant can't know:
    its classes are alike. So a class whose responses are worse routed than with its own adapter gets a prior, the
    same number of nats added to its bias at all inputs but the lowest, if all classes together then lose less.
    """
    best = routed
    priors: dict[str, float] = {}
    worst = sorted((at for at in best if best[at] - held.own[at] > SHORT), key=lambda at: held.own[at] - best[at])
    for label in worst[:MOST]:
        name = held.names[label]
        for prior in TRIED:
            held.trying(f"{name} {prior:+g}")
            meteora.set_gates({name: _raised(gates[name], prior)})
            now = held.routed()
            if held.lost(now) <= held.lost(best) - GAIN:
                best, priors[name] = now, prior
        meteora.set_gates({name: _raised(gates[name], priors.get(name, 0.0))})
    return {name: _raised(rows, priors.get(name, 0.0)) for name, rows in gates.items()}, priors, best


def _raised(rows: dict[str, tuple[Tensor, float]], prior: float) -> dict[str, tuple[Tensor, float]]:
    """`rows`, in the model's order, with the prior on all but the lowest."""
    low = len(rows) // LOW
    return {path: (row, bias + prior * (at >= low)) for at, (path, (row, bias)) in enumerate(rows.items())}
