"""What an evaluation found, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

Shares = dict[str, float]
"""Adapter, or `"__base__"`, to its share of the tokens."""


@dataclass(frozen=True)
class Score:
    """A value with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PartResult:
    """One question of a composite task: the share of items that answered it, its scores, and who served it."""

    attempted: float
    scores: dict[str, Score]
    served: Shares


@dataclass(frozen=True)
class TaskResult:
    """A task, by variant.

    Attributes:
        metrics: those of `scores`; the first one is the task's own. Of a composite task: `right`, the sum over its
            parts of accuracy (parts scored by BLEU have none), and `attempted`, the mean number of answers; where ends
            were read as line breaks, also both of the answers up to their first end (`…_before_end`).
        scores: by variant, then metric.
        differences: the first metric's, variant less reference variant, on the same resamples.
        ratios: the first metric's, variant to reference variant, on the same resamples.
        losses: nats a token of the wanted responses, mean over items, if they were asked for.
        served: for variants whose gates choose, by weight over all sites and the answers' tokens.
        parts: of a composite task, by variant, then part.
        along: of a composite task, by variant: who leads the tokens in each twentieth of the answers' length.
    """

    name: str
    items: int
    metrics: tuple[str, ...]
    scores: dict[str, dict[str, Score]]
    differences: dict[str, Score] = field(default_factory=dict)
    ratios: dict[str, Score] = field(default_factory=dict)
    losses: dict[str, Score] = field(default_factory=dict)
    served: dict[str, Shares] = field(default_factory=dict)
    parts: dict[str, dict[str, PartResult]] = field(default_factory=dict)
    along: dict[str, list[Shares]] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All tasks, and means over those that are not composite and that every variant answered.

    Attributes:
        reference: the variant that others are compared with: each task's own adapter, if that is among them.
        means: of each task's own metric, by variant.
        ratios: of a variant's mean to the reference's, on the same resamples.
        losses: means over tasks.
        averaged: how many tasks the means are of.
    """

    variants: tuple[str, ...]
    reference: str
    tasks: tuple[TaskResult, ...]
    averaged: int
    means: dict[str, Score]
    ratios: dict[str, Score]
    losses: dict[str, Score]


COUNTS = ("right", "attempted", "right_before_end", "attempted_before_end")
"""Metrics that are counts; all others are shares."""


def show(score: Score, metric: str = "") -> str:
    """A score as text: a share in percent, a count as it is."""
    scale, digits = (1, 2) if metric in COUNTS else (100, 1)
    value, low, high = (f"{each * scale:.{digits}f}" for each in (score.value, score.low, score.high))
    return f"{value} [{low}, {high}]"
