"""Which of a fit's texts are kept for adapters that come later."""

from __future__ import annotations

from collections.abc import Sequence

from meteora_rs.gates.kept import KeptText
from meteora_rs.routes import BASE

from .data import Example

TOKENS, BASE_TOKENS = 512, 3072
"""Of the texts that are kept of an adapter, and of the base, which is all sorts of text.

With half as many of the base's a new row took more of text that belongs to nobody. Token ids, not activations: those
would be a thousand times the bytes, and of gates that others have since joined.
"""


def kept_texts(examples: Sequence[Example], label: int, name: str) -> list[KeptText]:
    """Of a class's examples those to keep, one at least: first what never taught, and of that the shortest."""
    most = BASE_TOKENS if name == BASE else TOKENS
    taken: list[KeptText] = []
    for example in sorted(examples, key=lambda each: (not each.held_out, len(each.ids))):
        most -= len(example.ids)
        if taken and most < 0:
            break
        taken.append(KeptText(label, example.ids, example.response))
    return taken
