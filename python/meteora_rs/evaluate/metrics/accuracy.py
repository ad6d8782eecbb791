"""The metrics by which an item is right or wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class Accuracy(ABC):
    """`score = right / items`; an empty answer is wrong, whatever the reference."""

    is_accuracy = True

    @abstractmethod
    def right(self, answer: str, reference: str) -> bool:
        """Whether a non-empty answer is right."""

    def statistics(self, answer: str, reference: str) -> Sequence[float]:
        """1 or 0."""
        return (float(bool(answer.strip()) and self.right(answer, reference)),)

    def score(self, sums: Sequence[float], items: int) -> float:
        """The share of right answers."""
        return float(sums[0]) / items


def plain(text: str) -> str:
    """`text` without case, and with single spaces between words and none around them."""
    return " ".join(text.casefold().split())
