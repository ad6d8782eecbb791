"""Intervals that know what pairs share."""

from __future__ import annotations

import numpy as np
import pytest
from meteora_rs.evaluate.bootstrap import draws, interval, resampled


def test_draws_are_as_many_as_items_and_the_same_again() -> None:
    drawn = draws(50, 200, seed=3)
    assert drawn.shape == (200, 50)
    assert (drawn.sum(axis=1) == 50).all()
    assert np.array_equal(drawn, draws(50, 200, seed=3))
    assert not np.array_equal(drawn, draws(50, 200, seed=4))


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    rights = [(1.0,)] * 60 + [(0.0,)] * 40
    low, high = interval(resampled(rights, draws(100, 4000, 0), lambda sums, items: sums[0] / items))
    deviation = 1.96 * (0.6 * 0.4 / 100) ** 0.5
    assert low == pytest.approx(0.6 - deviation, abs=0.015)
    assert high == pytest.approx(0.6 + deviation, abs=0.015)


def test_paired_differences_are_narrower() -> None:
    random = np.random.default_rng(0)
    one = (random.random(200) < 0.5).astype(float)
    other = one.copy()
    other[:6] = 1 - other[:6]  # the two disagree on six items
    drawn = draws(200, 1000, 0)
    score = lambda sums, items: sums[0] / items  # noqa: E731
    paired = resampled(one[:, None].tolist(), drawn, score) - resampled(other[:, None].tolist(), drawn, score)
    low, high = interval(paired)
    single = interval(resampled(one[:, None].tolist(), drawn, score))
    assert high - low < 0.5 * (single[1] - single[0])
    assert low <= one.mean() - other.mean() <= high


def test_what_is_not_finite_is_left_out() -> None:
    assert interval(np.array([1.0, np.nan, np.inf, 1.0])) == (1.0, 1.0)
    assert all(np.isnan(interval(np.array([np.nan]))))
