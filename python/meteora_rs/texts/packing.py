"""Which texts go through the model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def packed(lengths: Sequence[int], tokens: int, *, kept: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Indices in batches that take at most `tokens` tokens with their pads, longest first; one text at least.

    Longest first: if memory is short, it shows at once, and texts of like length waste few pads. `kept`: of how many
    of each text's tokens logits are needed; a batch keeps at most `KEPT` with its pads.
    """
    waiting = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    while waiting:
        rows = max(1, tokens // max(1, lengths[waiting[0]]))
        if kept is not None:
            longest = 0
            for count, index in enumerate(waiting[:rows]):
                longest = max(longest, kept[index])
                if count and (count + 1) * longest > KEPT:
                    rows = count
                    break
        yield waiting[:rows]
        waiting = waiting[rows:]


KEPT = 1024
"""Tokens whose logits are held at once: with a vocabulary of 49,152 they take 200 MB, and the loss as much again."""
