"""Priors of classes, chosen by what they do to the model's loss on texts that never taught."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .held_out import HeldOut, Losses

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

    from .sweeps import Gates

Rows = dict[str, tuple[Tensor, float]]
"""One class's rows and biases, by site."""

Limits = Mapping[str, Tensor]
"""By input group the largest prior of each class there, `[C]` float32 (`prior_limits`)."""

TAKEN = 0.1
"""Of another class's kept-back tokens, how many a prior may take at one input."""

TRIED = (1.0, 2.0, 4.0)
"""Nats."""

SHORT = 0.02
"""Nats a token by which a class's responses are worse routed than with its own adapter, to be worth a try."""

GAIN = 0.002
"""Nats a token that the mean over the classes must win: less is noise among a few texts."""

MOST = 4
"""Classes that are tried, those that lose most first."""


def choose_priors(
    meteora: Meteora, gates: Gates, limits: Limits, held: HeldOut, routed: Losses
) -> tuple[Gates, dict[str, float], Losses]:
    """Gates with a prior for the classes that need one, in force at the end; these priors; and the losses with them.

    `gates` are in force at the entrance, with losses `routed`.

    A token that is given to another class costs one class little and another much, which the discriminant can't know:
    its classes are alike. So a class whose responses are worse routed than with its own adapter gets a prior, the
    same number of nats added to its bias at every input, or the input's limit if that is less, as long as the mean
    loss over all classes falls.
    """
    best = routed
    priors: dict[str, float] = {}
    chosen = dict(gates)
    worst = sorted((at for at in best if best[at] - held.own[at] > SHORT), key=lambda at: held.own[at] - best[at])
    for label in worst[:MOST]:
        name = held.names[label]
        most = {path: float(each[label]) for path, each in limits.items()}
        for prior in TRIED:
            held.trying(f"{name} {prior:+g}")
            meteora.set_gates({name: _raised(gates[name], prior, most)})
            now = held.routed()
            if held.mean(now) > held.mean(best) - GAIN:
                break
            best, priors[name] = now, prior
        chosen[name] = _raised(gates[name], priors.get(name, 0.0), most)
        meteora.set_gates({name: chosen[name]})
    return chosen, priors, best


def _raised(rows: Rows, prior: float, most: Mapping[str, float]) -> Rows:
    return {path: (row, bias + min(prior, most[path])) for path, (row, bias) in rows.items()}


def prior_limits(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest prior of each class at one input, `[C]` float32, from kept-back tokens' logits `[N, C]`.

    With more, the class would take above `TAKEN` of the tokens of some other class, of those that this class has.
    An input that hardly tells two classes apart shall not be ruled by what one of them needs elsewhere. Infinite if
    there is nothing to take.
    """
    classes = logits.shape[1]
    limits = torch.full((classes,), torch.inf, dtype=torch.float32)
    chosen = logits.argmax(1)
    for other in range(classes):
        own = logits[(labels == other) & (chosen == other)]
        spare = int(TAKEN * int((labels == other).sum()))
        if spare < len(own):
            gaps = (own[:, other, None] - own).sort(0).values[spare]
            gaps[other] = torch.inf
            limits = limits.minimum(gaps)
    return limits
