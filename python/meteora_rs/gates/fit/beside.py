"""Rows for one class more, beside those of a fit, which stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from meteora_rs.errors import AdapterNotFoundError
from meteora_rs.gates.kept import KeptTexts
from meteora_rs.gates.tried import Classes, Rows, TriedGates
from meteora_rs.routes import BASE
from meteora_rs.routing.block import Block
from meteora_rs.serving.requests import Requests

from .collect import GroupActivations
from .data import Batch, Example, one_in_three
from .discriminant import metrics
from .sweeps import Lessons, confusion, swept

BATCH_TOKENS, MEMORY_BUDGET = 2048, 2 << 30

SPARSE = 3
"""One token in so many goes into the sums, which are where the descent begins and how it measures; all are in that."""


@dataclass(frozen=True)
class Given:
    """By name of each class of the fit that competes: the share of the new one's kept-back tokens that goes to it, and
    of its own that goes to the new one, mean over all inputs; and the names of those that are not on the device.
    """

    lost: Mapping[str, float]
    taken: Mapping[str, float]
    resting: Sequence[str]


def rows_beside(
    meteora: Requests,
    kept: KeptTexts,
    seat: int,
    name: str,
    examples: Sequence[Example],
    check: Callable[[], None],
) -> tuple[dict[str, tuple[Tensor, float]], Given]:
    """For each input group a row that tells `examples`, label 0, from the texts that a fit kept of its other classes.

    With the middle m of the others' means, and the mean scatter S of all classes:

        W = (S + shrinkage · diag(S))⁻¹ (mean - m) / T,   b = -W · (m + mean) / 2

    and from there a few steps down the cross-entropy of all tokens, in which the others' rows do not move
    (`logistic.refine`). First on a third of the texts, the new ones with the adapter itself at work, from the slot
    `seat`, and the others with the gates in force; then on all, with these first rows in force too, for this reading
    alone: the new adapter's low layers know little of whose text it is, and its upper ones must cope with what those
    choose.
    """
    others, fixed, all_but_new, all_classes = _competitors(meteora, kept, seat, name)
    again = _read_again(kept, others)
    reading = _Reading(meteora, [name, *others], fixed, kept.shrinkage, check)
    with TriedGates(meteora, all_but_new, fixed).request():
        named, _ = reading.rows(
            lambda batch: nullcontext() if batch.labels.any() else _at_work(meteora, seat, name),
            one_in_three(examples),
            one_in_three(again),
        )
    first = {path: _joined(rows, fixed[path]) for path, rows in named.items()}
    with TriedGates(meteora, all_classes, first).request():
        found, given = reading.rows(lambda _: nullcontext(), examples, again)
    lost, taken = (dict(zip(others, shares.tolist(), strict=True)) for shares in (given[0, 1:], given[1:, 0]))
    resting = [each for each in kept.names if each != name and meteora._rests(each)]
    rows = {path: (row[0] / kept.temperature, float(bias) / kept.temperature) for path, (row, bias) in found.items()}
    return rows, Given(lost, taken, resting)


class _Reading:
    """Passes over texts of the new class and the others'."""

    def __init__(
        self,
        meteora: Requests,
        names: Sequence[str],
        fixed: Mapping[str, Rows],
        shrinkage: Mapping[str, float],
        check: Callable[[], None],
    ) -> None:
        self._meteora, self._names, self._fixed, self._shrinkage, self._check = meteora, names, fixed, shrinkage, check

    def rows(
        self, routing: Callable[[Batch], AbstractContextManager[Any]], new: Sequence[Example], others: Sequence[Example]
    ) -> tuple[dict[str, Rows], Tensor]:
        """The new class's rows, `[1, in]` and `[1]`, from one pass; and of each class's kept-back tokens the shares
        that go to each, `[C, C]`, mean over all inputs.
        """
        lessons = Lessons(self._names, BATCH_TOKENS, new, others, sparse=SPARSE)
        rows: dict[str, Rows] = {}
        given = torch.zeros(len(self._names), len(self._names), dtype=torch.float32)
        for group in swept(self._meteora, lessons, routing, MEMORY_BUDGET, lambda _: self._check(), refine=True):
            fixed = self._fixed[group.path]
            rows[group.path] = self._row(group, fixed)
            given += confusion(_joined(rows[group.path], fixed), *group.kept_back())
        return rows, given / given.sum(1, keepdim=True).clamp(min=1)

    def _row(self, group: GroupActivations, fixed: Rows) -> Rows:
        means, scatter = group.statistics.means().cpu(), group.statistics.scatter().cpu()
        if not (means.isfinite().all() and scatter.isfinite().all()):
            bad = [name for name, mean in zip(self._names, means, strict=True) if not mean.isfinite().all()]
            whose = f" with texts of {bad[0]!r}" if bad else ""  # squares may overflow where no mean does
            raise ValueError(f"adapter {self._names[0]!r}: an activation at {group.path} is infinite or NaN{whose}")
        middle = means[1:].mean(0) if len(means) > 1 else means[0]
        (metric,) = metrics(scatter, [self._shrinkage[group.path]])
        return group.refined(metric.rows(means[:1], middle), metric, fixed)


def _joined(new: Rows, others: Rows) -> Rows:
    return torch.cat([new[0], others[0]]), torch.cat([new[1], others[1]])


def _at_work(meteora: Requests, seat: int, name: str) -> Block:
    """A request with the adapter in a slot that no route leads to, alone: a choice of one."""
    rows = {
        group.leader.path: (
            torch.zeros(1, group.leader.in_features, dtype=torch.float32),
            torch.zeros(1, dtype=torch.float32),
        )
        for group in meteora.groups
    }
    return TriedGates(meteora, Classes(meteora, [name], 1, {name: seat}), rows).request()


def _competitors(
    meteora: Requests, kept: KeptTexts, seat: int, new: str
) -> tuple[list[str], dict[str, Rows], Classes, Classes]:
    """The classes of the fit that are on the device; for each group their rows with the temperature taken out; and
    the choice among them, and among them and `new`, from now on: others may change and unload adapters meanwhile.
    """
    while True:
        with meteora._writer:
            hold, records = meteora._hold()
            slots = meteora._given_slots([record for record in records if record.gate in ("fitted", "examples")])
        names = [name for name in kept.names if name in slots and name != new]
        places = [slots[name] for name in names]
        rows = {
            group.leader.path: (
                group.leader.gate[places].cpu().float() * kept.temperature,
                group.leader.gate_bias[places].cpu().float() * kept.temperature,
            )
            for group in meteora.groups
        }
        del hold
        try:
            return names, rows, Classes(meteora, names, 1), Classes(meteora, [new, *names], 1, {new: seat})
        except AdapterNotFoundError:
            there = {BASE, *(record.name for record in meteora.adapters())}
            if there.issuperset(names):  # a confined block is around this
                raise


def _read_again(kept: KeptTexts, names: Sequence[str]) -> list[Example]:
    """The kept texts of these classes, labelled from 1 on; one token in eight tests, the others teach."""
    again = []
    for text in kept.texts:
        if (name := kept.names[text.label]) in names:
            test = tuple(range(1, len(text.ids), 8))
            teach = tuple(sorted({*range(len(text.ids))} - {*test}))  # the first, on which all others lean, among them
            again.append(Example(1 + names.index(name), text.ids, text.response, teach, test, False))
    return again
