"""What the model loses on texts that never taught: gates, priors and the temperature are chosen by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from meteora_rs.routes import BASE, Auto, Route
from meteora_rs.serving.requests import Requests
from meteora_rs.texts.loss import token_losses

from .data import Example
from .fast_products import fast_products

READ, READ_TO_REFINE = 4096, 12288
"""Tokens of held-out texts, over all classes, that one choice is tried on. With three or four texts a class, where the
better of two fits was worth 0.01 nats, the worse one was taken."""

Losses = Mapping[int, float]
"""By label, nats a token."""


class HeldOut:
    """Held-out texts of all classes, and what the model loses on their responses."""

    def __init__(
        self,
        meteora: Requests,
        names: Sequence[str],
        examples: Sequence[Example],
        route: Auto,
        trying: Callable[[str], object],
        read: int = READ,
    ) -> None:
        """`route`: under which gates are tried; trying: is told what is being tried; read: tokens at most."""
        self.names = list(names)
        self.texts = held_out(examples, read)
        self.trying = trying
        self._meteora = meteora
        self._route = route

    @cached_property
    def own(self) -> Losses:
        """With each class's own adapter."""
        self.trying("own adapters")
        own: dict[int, float] = {}
        for label in {example.label for example in self.texts}:
            own |= self._losses([each for each in self.texts if each.label == label], self.names[label], 1, None)
        return own

    def routed(self, top_k: int = 1, temperature: float | None = None) -> Losses:
        """With the gates in force."""
        return self._losses(self.texts, self._route, top_k, temperature)

    def mean(self, losses: Losses) -> float:
        """The mean over the classes, which count alike; the base's is no less than without any adapter.

        What a text of the base's gains by an adapter is chance, or that adapter's prompt format: the base is a class
        so that such texts are left alone.
        """
        least = {label: nats for label, nats in self.own.items() if self.names[label] == BASE}
        return sum(max(nats, least.get(label, nats)) for label, nats in losses.items()) / len(losses)

    def lost(self, losses: Losses) -> float:
        """What classes lose against their own adapters, or the base against none, mean over all; none gains.

        With one adapter a token, what a few texts gain by another's is chance: left in, that of eleven classes hid what
        one of them lost.
        """
        return sum(max(nats - self.own[label], 0.0) for label, nats in losses.items()) / len(losses)

    def _losses(self, texts: Sequence[Example], route: Route, top_k: int, temperature: float | None) -> Losses:
        """The mean over a class's texts, all read under one route."""
        by_class: dict[int, list[float]] = {}
        encoded = [example.encoded for example in texts]
        with fast_products(self._meteora.model):
            each = token_losses(self._meteora, encoded, route, top_k=top_k, temperature=temperature)
        for example, (nats, count) in zip(texts, each, strict=True):
            by_class.setdefault(example.label, []).append(nats / count)
        return {label: sum(some) / len(some) for label, some in by_class.items()}


def held_out(examples: Sequence[Example], read: int = READ) -> list[Example]:
    """Held-out texts of all classes in turn, the shortest of each first, until `read` tokens; one a class at least."""
    by_class: dict[int, list[Example]] = {}
    for example in sorted((e for e in examples if e.held_out), key=lambda example: len(example.ids)):
        by_class.setdefault(example.label, []).append(example)
    rounds = max(map(len, by_class.values()), default=0)
    turns = [texts[i] for i in range(rounds) for texts in by_class.values() if i < len(texts)]
    total = 0
    taken: list[Example] = []
    for example in turns:
        total += len(example.ids)
        if total > read and len(taken) >= len(by_class):
            break
        taken.append(example)
    return taken
