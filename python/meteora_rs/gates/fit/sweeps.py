"""One pass over the examples: sweeps over groups of layers within a memory budget, then rows for every shrinkage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from meteora_rs.attached.attached import Attached
from meteora_rs.gates.tried import Rows
from meteora_rs.sites.site import Site

from .collect import GroupActivations, Taught, collect
from .data import Batch, Example, batches
from .discriminant import solve
from .statistics import ClassStatistics

Gates = dict[str, dict[str, tuple[Tensor, float]]]
ENOUGH = 0.005
REFINED = 1e-2
"""The shrinkage that logistic regression begins with, if it is among those that are solved."""

Routing = Callable[[Batch], AbstractContextManager[Any]]


class Lessons:
    """What a pass reads: batches, the names of the labels, and how many tokens teach and test each class."""

    def __init__(self, names: Sequence[str], batch_tokens: int, *parts: Sequence[Example], sparse: int = 1) -> None:
        """`parts`: the examples; those of one part are in no batch with another's. sparse: as in `GroupActivations`."""
        self.names = list(names)
        self.sparse = sparse
        self.packed: list[Batch] = [batch for part in parts for batch in batches(part, batch_tokens)]
        examples = [example for part in parts for example in part]
        self.read = sum(len(example.ids) for example in examples)
        summed = [batch.token_labels[batch.teach][batch.in_sums(sparse)] for batch in self.packed]
        self.counts = torch.cat(summed).bincount(minlength=len(names)).clamp(min=1).double()
        self.test_labels = torch.cat([batch.token_labels[batch.test] for batch in self.packed])
        self.taught = Taught(
            torch.cat([batch.token_labels[batch.teach] for batch in self.packed]),
            torch.cat([batch.answering[batch.teach] for batch in self.packed]),
        )


@dataclass
class Solved:
    """A pass's outcome: for each input group rows for each shrinkage; for each kind of input what they get right.

    confusions: `{kind: [shrinkages, C, C]}`, kept-back tokens of the class in the row that were given to the class
    in the column, over all layers. refined: for each group the rows of `REFINED` after logistic regression, if it was
    asked for, and what they get right, `{kind: [C, C]}`.
    """

    shrinkages: Sequence[float]  # ascending
    rows: dict[str, list[Rows]] = field(default_factory=dict)
    confusions: dict[str, Tensor] = field(default_factory=dict)
    refined: dict[str, Rows] = field(default_factory=dict)
    refined_confusions: dict[str, Tensor] = field(default_factory=dict)

    def chosen(self) -> dict[str, int]:
        """For each kind the index of the largest shrinkage whose mean recall is within `ENOUGH` of the best.

        Differences below that are noise among a few texts, and a larger one carries over better.
        """
        recalls = {kind: recall(each) for kind, each in self.confusions.items()}
        return {kind: int((each >= each.max() - ENOUGH).nonzero().max()) for kind, each in recalls.items()}

    def best_confusions(self) -> dict[str, Tensor]:
        """What the rows of the chosen shrinkages get right, `{kind: [C, C]}`."""
        return {kind: self.confusions[kind][at] for kind, at in self.chosen().items()}

    def shrinkage(self) -> dict[str, float]:
        """The chosen shrinkage of each group."""
        chosen = self.chosen()
        return {path: self.shrinkages[chosen[path.rpartition(".")[2]]] for path in self.rows}

    def best(self) -> dict[str, Rows]:
        """The rows of the chosen shrinkages, by group."""
        chosen = self.chosen()
        return {path: candidates[chosen[path.rpartition(".")[2]]] for path, candidates in self.rows.items()}


def by_name(rows_by_group: Mapping[str, Rows], names: Sequence[str]) -> Gates:
    """Rows in the form of `Meteora.set_gates`."""
    gates: Gates = {name: {} for name in names}
    for path, (rows, biases) in rows_by_group.items():
        for name, row, bias in zip(names, rows, biases.tolist(), strict=True):
            gates[name][path] = (row, bias)
    return gates


def recall(confusion: Tensor) -> Tensor:
    """The mean over the classes of the share that is given to its own class; `[…, C, C]` to `[…]`."""
    totals = confusion.sum(-1)
    shares = confusion.diagonal(dim1=-2, dim2=-1) / totals.clamp(min=1)
    return shares.sum(-1) / (totals > 0).sum(-1).clamp(min=1)


def mean_recall(confusions: Mapping[str, Tensor]) -> float:
    """`recall`, mean over the kinds of input."""
    return float(torch.stack([recall(each) for each in confusions.values()]).mean())


def run_pass(
    meteora: Attached,
    lessons: Lessons,
    routing: Routing,
    shrinkages: Sequence[float],
    memory_budget: int,
    done: Callable[[int], object],
    *,
    judges: Mapping[str, Rows] | None = None,
    refine: bool = False,
) -> Solved:
    """Reads all examples under `routing` and solves every group.

    refine: also by logistic regression. judges: for each group the rows that say how hard a token is
    (`GroupActivations`).
    """
    solved = Solved(shrinkages)
    confusions: dict[str, Tensor] = defaultdict(
        lambda: torch.zeros(len(shrinkages), len(lessons.names), len(lessons.names), dtype=torch.int64)
    )
    refined: dict[str, Tensor] = {}
    begins = REFINED if REFINED in shrinkages else shrinkages[0]
    for group in swept(meteora, lessons, routing, memory_budget, done, judges, refine):
        solved.rows[group.path] = []
        candidates = solve(group.statistics, shrinkages, where=group.path)
        for shrinkage, (rows, metric) in zip(shrinkages, candidates, strict=True):
            solved.rows[group.path].append((rows[0].cpu(), rows[1].cpu()))
            if refine and shrinkage == begins:
                solved.refined[group.path] = group.refined(rows, metric)
        x, labels = group.kept_back()
        for index, each in enumerate(solved.rows[group.path]):
            confusions[group.kind][index] += confusion(each, x, labels)
        if refine:
            refined[group.kind] = refined.get(group.kind, 0) + confusion(solved.refined[group.path], x, labels)
    solved.confusions, solved.refined_confusions = dict(confusions), refined
    return solved


def confusion(rows: Rows, x: Tensor, labels: Tensor) -> Tensor:
    """How many tokens x `[N, width]` of each class are given to each, `[C, C]` int64."""
    classes = len(rows[0])
    given = (x @ rows[0].T + rows[1]).argmax(1)
    return (labels * classes + given).bincount(minlength=classes * classes).view(classes, classes)


def swept(
    meteora: Attached,
    lessons: Lessons,
    routing: Routing,
    memory_budget: int,
    done: Callable[[int], object],
    judges: Mapping[str, Rows] | None = None,
    refine: bool = False,
) -> Iterator[GroupActivations]:
    """Every input group's activations under `routing`, from one sweep for each set of groups that fits the budget."""
    for sites in sweeps(meteora, lessons, memory_budget, refine):
        like = next(meteora.model.parameters())
        groups = [
            GroupActivations(
                site.path,
                site.in_features,
                lessons.counts,
                lessons.test_labels,
                like,
                None if judges is None else judges[site.path],
                lessons.taught if refine else None,
                lessons.sparse,
            )
            for site in sites
        ]
        collect(meteora.model, groups, lessons.packed, routing, done)
        groups.reverse()
        while groups:  # each is freed before the next is solved
            yield groups.pop()


def sweeps(meteora: Attached, lessons: Lessons, memory_budget: int, refine: bool = False) -> list[list[Site]]:
    """The leaders of the input groups, in the model's order, in sets whose statistics fit the budget (one at least).

    Filled from the end: a sweep runs the model as far as the last of its set, so that the small one should be first.
    """
    element = next(meteora.model.parameters()).element_size()
    taught = 2 * len(lessons.taught.labels) if refine else 0
    sets: list[list[Site]] = [[]]
    taken = 0
    for site in (group.leader for group in reversed(meteora.groups)):
        width = site.in_features
        needed = (
            ClassStatistics.bytes(width, len(lessons.names)) + (len(lessons.test_labels) * element + taught) * width
        )
        if sets[0] and taken + needed > memory_budget:
            sets.insert(0, [])
            taken = 0
        sets[0].insert(0, site)
        taken += needed
    return sets
