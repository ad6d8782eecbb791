"""ROUGE, by rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Rouge:
    """The mean F-measure of one of rouge-score's kinds (`rouge1`, `rouge2`, `rougeL`), without stemming.

    Raises:
        ImportError: rouge-score is missing.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004.
    """

    is_accuracy = False

    def __init__(self, kind: str) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self._kind = kind
        scorer: Any = RougeScorer  # which has no types
        self._scorer = scorer([kind])

    def statistics(self, answer: str, reference: str) -> Sequence[float]:
        """The item's own F-measure; 0 for an empty answer."""
        return (float(self._scorer.score(reference, answer)[self._kind].fmeasure),)

    def score(self, sums: Sequence[float], items: int) -> float:
        """The mean."""
        return float(sums[0]) / items
