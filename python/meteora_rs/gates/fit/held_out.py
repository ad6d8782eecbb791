"""What the model loses on texts that never taught: priors and the temperature are chosen by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meteora_rs.loss import token_losses
from meteora_rs.routes import Route

from .data import Example

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

READ = 2048
"""Tokens of held-out texts, over all classes, that one choice is tried on."""


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


def class_losses(
    meteora: Meteora, texts: Sequence[Example], route: Route, *, top_k: int, temperature: float | None = None
) -> dict[int, float]:
    """By label the loss on the responses, nats a token: the mean over the class's texts, all read under one route."""
    by_class: dict[int, list[float]] = {}
    encoded = [example.encoded for example in texts]
    each = token_losses(meteora, encoded, route, top_k=top_k, temperature=temperature)
    for example, (nats, count) in zip(texts, each, strict=True):
        by_class.setdefault(example.label, []).append(nats / count)
    return {label: sum(some) / len(some) for label, some in by_class.items()}
