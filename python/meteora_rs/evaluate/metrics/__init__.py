"""What an answer is worth: one file for each metric, all seen through the same two calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from meteora_rs.errors import MeteoraError

from .bleu import Bleu
from .contains import Contains
from .exact import Exact
from .first_word import FirstWord
from .number import Number
from .rouge import Rouge

__all__ = ["METRICS", "Metric", "check", "make"]


class Metric(Protocol):
    """A score that is a function of sums over items, so that any set of items, drawn again and again too, has one."""

    is_accuracy: bool
    """Whether each item is right or wrong."""

    def statistics(self, answer: str, reference: str) -> Sequence[float]:
        """What one answer adds to the sums; an empty answer adds what a wrong one does."""
        ...

    def score(self, sums: Sequence[float], items: int) -> float:
        """The score, 0 to 1, of `items` items with these sums."""
        ...


METRICS: dict[str, Callable[[], Metric]] = {
    "exact": Exact,
    "contains": Contains,
    "first_word": FirstWord,
    "number": Number,
    "bleu": Bleu,
    "rouge_1": lambda: Rouge("rouge1"),
    "rouge_2": lambda: Rouge("rouge2"),
    "rouge_l": lambda: Rouge("rougeL"),
}


def check(name: str, where: str) -> str:
    """`name`, if there is such a metric.

    Raises:
        MeteoraError: there is none; the message begins with `where`.
    """
    if name not in METRICS:
        raise MeteoraError(f"{where}: no metric {name!r}; there are {', '.join(METRICS)}")
    return name


def make(names: Iterable[str]) -> dict[str, Metric]:
    """The metrics of these names.

    Raises:
        MeteoraError: no such metric, or a package that it needs is missing.
    """
    try:
        return {name: METRICS[check(name, "metrics")]() for name in dict.fromkeys(names)}
    except ImportError as error:
        raise MeteoraError(
            f"a metric needs the package {error.name}: pip install 'meteora-rs[evaluate]', or choose other metrics"
        ) from error
