"""The temperature of mixing, chosen by what it does to the model's loss on texts that never taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meteora_rs.loss import token_losses
from meteora_rs.routes import Auto

from .data import Example

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

TEMPERATURES = (0.25, 0.5, 1.0)
SHARPEST = 1 / 64
"""The second of two adapters then has no weight to speak of: logits are log-posteriors, apart by nats."""

READ = 2048
"""Tokens of held-out texts, over all classes, that one temperature is tried on."""


def choose_temperature(
    meteora: Meteora, examples: Sequence[Example], route: Auto, trying: Callable[[str], object]
) -> tuple[float, dict[str, float]]:
    """The T whose mixed logits / T give the least loss on the responses of held-out texts, and all the losses.

    Tries top_k = 1 too (named `"top_k=1"`): where no mixture is better, T is so small that the best adapter is as
    good as alone. Classes count alike. Returns T = 1 and no losses if no text is held out.
    """
    texts = held_out(examples)
    if not texts:
        return 1.0, {}
    own = meteora.config.temperature
    mixed = max(2, meteora.config.top_k)
    tried = {"top_k=1": (1, own)} | {f"{t:g}": (mixed, t * own) for t in TEMPERATURES}
    losses = {}
    for name, (top_k, temperature) in tried.items():
        trying(name)
        by_class: dict[int, list[float]] = {}
        encoded = [example.encoded for example in texts]
        each = token_losses(meteora, encoded, route, top_k=top_k, temperature=temperature)
        for example, (nats, count) in zip(texts, each, strict=True):
            by_class.setdefault(example.label, []).append(nats / count)
        losses[name] = sum(sum(some) / len(some) for some in by_class.values()) / len(by_class)
    best = min(losses, key=lambda name: losses[name])
    return (SHARPEST if best == "top_k=1" else float(best)), losses


def held_out(examples: Sequence[Example]) -> list[Example]:
    """Held-out texts of all classes in turn, the shortest of each first, until `READ` tokens; one a class at least."""
    by_class: dict[int, list[Example]] = {}
    for example in sorted((e for e in examples if e.held_out), key=lambda example: len(example.ids)):
        by_class.setdefault(example.label, []).append(example)
    rounds = max(map(len, by_class.values()), default=0)
    turns = [texts[i] for i in range(rounds) for texts in by_class.values() if i < len(texts)]
    total = 0
    taken: list[Example] = []
    for example in turns:
        total += len(example.ids)
        if total > READ and len(taken) >= len(by_class):
            break
        taken.append(example)
    return taken
