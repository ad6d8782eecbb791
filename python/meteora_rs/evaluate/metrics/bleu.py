"""Corpus BLEU, by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

ORDER = 4


class Bleu:
    """sacrebleu's corpus BLEU (13a tokens, exponential smoothing) over all hypotheses, divided by 100.

    An item's statistics are its matched and its total n-grams, n = 1 to 4, and both lengths. Corpus BLEU is a
    function of their sums; the mean of sentences' BLEU is another number, and the first sentence's a third.

    Raises:
        ImportError: sacrebleu is missing.

    Source: Papineni et al. 2002; Post, A Call for Clarity in Reporting BLEU Scores, 2018.
    """

    is_accuracy = False

    def __init__(self) -> None:
        from sacrebleu.metrics.bleu import BLEU

        self._bleu = BLEU()

    def statistics(self, answer: str, reference: str) -> Sequence[float]:
        """Ten counts."""
        # Without an alternative for the line ends sacrebleu would count them as part of a word.
        found = self._bleu.corpus_score([" ".join(answer.split())], [[" ".join(reference.split())]])
        return (*found.counts, *found.totals, found.sys_len, found.ref_len)

    def score(self, sums: Sequence[float], items: int) -> float:
        """BLEU of the sums."""
        counts = [round(value) for value in sums]
        found = self._bleu.compute_bleu(
            counts[:ORDER], counts[ORDER : 2 * ORDER], counts[-2], counts[-1], smooth_method="exp"
        )
        return float(found.score) / 100
