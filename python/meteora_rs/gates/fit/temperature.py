"""The temperature of mixing, chosen by what it does to the model's loss on texts that never taught."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meteora_rs.routes import Auto

from .data import Example
from .held_out import class_losses, held_out

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

TEMPERATURES = (0.25, 0.5, 1.0)
SHARPEST = 1 / 64
"""The second of two adapters then has no weight to speak of: logits are log-posteriors, apart by nats."""


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
        found = class_losses(meteora, texts, route, top_k=top_k, temperature=temperature)
        losses[name] = sum(found.values()) / len(found)
    best = min(losses, key=lambda name: losses[name])
    return (SHARPEST if best == "top_k=1" else float(best)), losses
