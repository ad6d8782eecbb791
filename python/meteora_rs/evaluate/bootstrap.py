"""Paired bootstrap: how far a score, a mean or a difference could have come out otherwise with other items."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def draws(items: int, resamples: int, seed: int) -> Floats:
    """How often each item is drawn in each resample, `[resamples, items]`; each row sums to `items`.

    Use the same draws for all variants of a task: what they share then cancels in their differences.
    """
    random = np.random.default_rng(seed)
    return random.multinomial(items, np.full(items, 1 / items), size=resamples).astype(np.float64)


def resampled(
    statistics: Sequence[Sequence[float]], drawn: Floats, score: Callable[[Sequence[float], int], float]
) -> Floats:
    """The score of each resample, `[resamples]`, from the items' statistics `[items, d]`."""
    sums = drawn @ np.asarray(statistics, np.float64)
    return np.array([score(row, drawn.shape[1]) for row in sums.tolist()])


def interval(samples: Floats) -> tuple[float, float]:
    """The middle 95% of resampled values (percentile bootstrap; Efron 1979); what is not finite is left out."""
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return (float("nan"), float("nan"))
    low, high = np.percentile(finite, [2.5, 97.5])
    return (float(low), float(high))
