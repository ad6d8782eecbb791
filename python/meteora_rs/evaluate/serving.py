"""Who served the answers: shares of tokens, of the parts of composite answers, and along their length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

Runs = Sequence[tuple[str, int]]
"""(adapter, characters) from an answer's start to its end."""

BINS = 20


def mean_shares(answers: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    """The shares of all answers together, each counted by its tokens; largest first."""
    sums: dict[str, float] = defaultdict(float)
    for shares, tokens in answers:
        for name, share in shares.items():
            sums[name] += share * tokens
    return _normal(sums)


def part_shares(answers: Sequence[tuple[Runs, tuple[int, int]]]) -> dict[str, float]:
    """The share of characters, inside a span of each answer, whose token each adapter led; largest first."""
    sums: dict[str, float] = defaultdict(float)
    for runs, (begin, end) in answers:
        for name, overlap in _overlaps(runs, begin, end):
            sums[name] += overlap
    return _normal(sums)


def along_length(answers: Sequence[Runs]) -> list[dict[str, float]]:
    """For each twentieth of the answers' length the shares, every answer counted alike."""
    bins: list[dict[str, float]] = [defaultdict(float) for _ in range(BINS)]
    for runs in answers:
        total = sum(count for _, count in runs)
        for place, sums in enumerate(bins):
            for name, overlap in _overlaps(runs, total * place / BINS, total * (place + 1) / BINS):
                sums[name] += overlap / total
    return [_normal(sums) for sums in bins]


def _overlaps(runs: Runs, begin: float, end: float) -> list[tuple[str, float]]:
    found, start = [], 0
    for name, count in runs:
        overlap = min(end, start + count) - max(begin, start)
        if overlap > 0:
            found.append((name, float(overlap)))
        start += count
    return found


def _normal(sums: Mapping[str, float]) -> dict[str, float]:
    total = sum(sums.values())
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return {name: value / total for name, value in ordered if value > 0}
