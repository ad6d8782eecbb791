"""From answers to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import Floats, draws, interval, resampled
from .composite import references, split_answer
from .metrics import Metric
from .report import Report
from .results import PartResult, Score, Shares, TaskResult
from .serving import along_length, mean_shares, part_shares
from .tasks import Task

Record = Mapping[str, Any]
"""A line of an answer file: `text`, `shares`, `served`, perhaps `nats`."""

Answers = Mapping[tuple[str, str], Sequence[Record]]
"""By task and variant, in the order of the task's items."""


@dataclass(frozen=True)
class Sampled:
    """A value, and what it is in each resample."""

    value: float
    samples: Floats

    def score(self) -> Score:
        """The value with its interval."""
        return Score(self.value, *interval(self.samples))


def build(
    tasks: Sequence[Task], answers: Answers, metrics: Mapping[str, Metric], reference: str, *, resamples: int, seed: int
) -> Report:
    """Score all answers; `reference` is the variant that the others are compared with."""
    variants = tuple(dict.fromkeys(variant for _, variant in answers))
    results, first, losses = [], {}, {}
    for number, task in enumerate(tasks):
        scorer = Scorer(task, metrics, draws(len(task.items), resamples, seed + number))
        mine = {variant: answers[task.name, variant] for variant in variants if (task.name, variant) in answers}
        result, scores, nats = scorer.result(mine, reference)
        results.append(result)
        if not task.parts and len(mine) == len(variants):
            first[task.name] = scores
            if len(nats) == len(variants):
                losses[task.name] = nats
    means = _means(first, variants)
    ratios = {}
    if reference in means:
        under = means[reference]
        ratios = {name: _ratio(mean, under).score() for name, mean in means.items()}
    return Report(
        variants,
        reference,
        tuple(results),
        len(first),
        {name: mean.score() for name, mean in means.items()},
        ratios,
        {name: mean.score() for name, mean in _means(losses, variants).items()},
    )


class Scorer:
    """Scores one task's answers, all variants on the same resamples."""

    def __init__(self, task: Task, metrics: Mapping[str, Metric], drawn: Floats) -> None:
        self._task = task
        self._metrics = metrics
        self._drawn = drawn

    def result(
        self, answers: Mapping[str, Sequence[Record]], reference: str
    ) -> tuple[TaskResult, dict[str, Sampled], dict[str, Sampled]]:
        """The result, and by variant its own metric and its loss, to average."""
        score = self._composite if self._task.parts else self._plain
        self._cut = any("first_end" in record for records in answers.values() for record in records)
        found = {variant: score(records) for variant, records in answers.items()}
        scores = {variant: sampled for variant, (sampled, _) in found.items()}
        names = tuple(next(iter(scores.values())))
        first = {variant: each[names[0]] for variant, each in scores.items()}
        losses = {v: self._loss(records) for v, records in answers.items() if all("nats" in r for r in records)}
        chosen = {variant: records for variant, records in answers.items() if any(r["served"] for r in records)}
        count = len(self._task.parts)
        under = first.get(reference)
        return (
            TaskResult(
                self._task.name,
                len(self._task.items),
                names,
                {v: {name: sampled.score() for name, sampled in each.items()} for v, each in scores.items()},
                {
                    v: Score(each.value - under.value, *interval(each.samples - under.samples))
                    for v, each in first.items()
                    if under is not None and v != reference
                },
                {v: _ratio(each, under).score() for v, each in first.items() if under is not None and v != reference},
                {variant: loss.score() for variant, loss in losses.items()},
                {variant: mean_shares([(r["shares"], r["tokens"]) for r in each]) for variant, each in chosen.items()},
                {variant: parts for variant, (_, parts) in found.items() if parts},
                {v: along_length([r["served"] for r in each]) for v, each in chosen.items()} if count else {},
            ),
            first,
            losses,
        )

    def _plain(self, records: Sequence[Record]) -> tuple[dict[str, Sampled], dict[str, PartResult]]:
        texts = [record["text"] for record in records]
        wanted = [item.response for item in self._task.items]
        return {name: self._score(name, texts, wanted) for name in self._task.metrics_of(self._task.name)}, {}

    def _composite(self, records: Sequence[Record]) -> tuple[dict[str, Sampled], dict[str, PartResult]]:
        counts, parts = self._counts(records)
        if self._cut:
            early, _ = self._counts([{**each, "text": each["text"][: each.get("first_end")]} for each in records])
            counts |= {f"{name}_before_end": sampled for name, sampled in early.items()}
        return counts, parts

    def _counts(self, records: Sequence[Record]) -> tuple[dict[str, Sampled], dict[str, PartResult]]:
        count = len(self._task.parts)
        spans = [split_answer(record["text"], count) for record in records]
        wanted = [references(item.response) for item in self._task.items]
        right, parts = Sampled(0.0, np.zeros(len(self._drawn))), {}
        for place, part in enumerate(self._task.parts):
            mine = [each[place] for each in spans]
            texts = [r["text"][slice(*span)].strip() if span else "" for r, span in zip(records, mine, strict=True)]
            names = self._task.metrics_of(part)
            scores = {name: self._score(name, texts, [each[place] for each in wanted]) for name in names}
            if self._metrics[names[0]].is_accuracy:
                first = scores[names[0]]
                right = Sampled(right.value + first.value, right.samples + first.samples)
            served: Shares = part_shares([(r["served"], span) for r, span in zip(records, mine, strict=True) if span])
            attempted = sum(span is not None for span in mine) / len(mine)
            parts[part] = PartResult(attempted, {name: each.score() for name, each in scores.items()}, served)
        attempts = [(float(sum(span is not None for span in each)),) for each in spans]
        counts = {"right": right, "attempted": self._sampled(attempts, lambda sums, items: sums[0] / items)}
        return counts, parts

    def _score(self, name: str, texts: Sequence[str], wanted: Sequence[str]) -> Sampled:
        metric = self._metrics[name]
        statistics = [metric.statistics(text, reference) for text, reference in zip(texts, wanted, strict=True)]
        return self._sampled(statistics, metric.score)

    def _loss(self, records: Sequence[Record]) -> Sampled:
        each = [(record["nats"][0] / record["nats"][1],) for record in records]
        return self._sampled(each, lambda sums, items: sums[0] / items)

    def _sampled(self, statistics: Sequence[Sequence[float]], score: Any) -> Sampled:
        sums = np.asarray(statistics, np.float64).sum(axis=0).tolist()
        return Sampled(score(sums, len(statistics)), resampled(statistics, self._drawn, score))


def _means(tasks: Mapping[str, Mapping[str, Sampled]], variants: Sequence[str]) -> dict[str, Sampled]:
    """Over tasks, whose items are drawn independently of each other."""
    if not tasks:
        return {}
    return {
        name: Sampled(
            float(np.mean([each[name].value for each in tasks.values()])),
            np.mean([each[name].samples for each in tasks.values()], axis=0),
        )
        for name in variants
    }


def _ratio(over: Sampled, under: Sampled) -> Sampled:
    with np.errstate(divide="ignore", invalid="ignore"):
        return Sampled(float(np.float64(over.value) / np.float64(under.value)), over.samples / under.samples)
