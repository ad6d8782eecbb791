"""Which of two fits is taken: by the loss on texts that never taught."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from meteora_rs.routes import Auto

from .data import Example
from .held_out import class_losses, held_out
from .priors import choose_priors, own_losses

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

    from .sweeps import Gates

ENOUGH = 8192
"""Tokens of held-out texts that tell two fits apart: a choice that is made once may take more than each trial of it."""


def choose_gates(
    meteora: Meteora,
    names: Sequence[str],
    tried: Mapping[str, Gates],
    examples: Sequence[Example],
    route: Auto,
    trying: Callable[[str], object],
) -> tuple[Gates, dict[str, float], dict[str, float]]:
    """Of some gates, each with the priors it needs, those with the least loss on the responses of held-out texts.

    Returns them, then in force; their priors; and by name the losses of all, in nats a token, the mean over the classes
    (none, if there is no choice: the first of `tried` are taken if no text is held out).
    """
    texts, more = held_out(examples), held_out(examples, ENOUGH)
    trying("own adapters")
    own = own_losses(meteora, names, texts)
    found: dict[str, tuple[Gates, dict[str, float]]] = {}
    losses: dict[str, float] = {}
    for name, gates in tried.items():
        meteora.set_gates(gates)
        found[name] = choose_priors(meteora, names, gates, texts, own, route, trying)
        if not texts or len(tried) == 1:
            return *found[name], {}
        each = class_losses(meteora, more, route, top_k=1)
        losses[name] = sum(each.values()) / len(each)
    best = min(losses, key=lambda name: losses[name])
    meteora.set_gates(found[best][0])
    return *found[best], losses
