"""A gate row for a new adapter from a few examples and what the last fit kept of the others."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meteora_rs.errors import MeteoraError
from meteora_rs.gates.fit.data import Batch, Example, Text, check_texts, make_examples
from meteora_rs.gates.fit.discriminant import Rows, shrunk_solve
from meteora_rs.gates.fit.fit import TESTS_PER_CLASS, own_tokenizer
from meteora_rs.gates.fit.kept import KeptStatistics
from meteora_rs.gates.fit.sweeps import Lessons, confusion, swept
from meteora_rs.handle.cancel import Cancellation
from meteora_rs.handle.pipeline import Load
from meteora_rs.routes import BASE, Auto
from meteora_rs.source import AdapterSource, parse

if TYPE_CHECKING:
    from meteora_rs.gates.fit.collect import GroupActivations
    from meteora_rs.meteora import Meteora

FEWEST = 8
TOKENS, READ, MAX_LENGTH, BATCH_TOKENS, MEMORY_BUDGET = 1200, 4000, 512, 2048, 2 << 30

LOST = 0.2
"""More tokens lost to one other class, or taken from it, than this are worth a warning."""


def load_with_examples(
    meteora: Meteora,
    source: AdapterSource,
    name: str,
    texts: Sequence[Text],
    revision: str | None,
    tokenizer: Any,
    *,
    reload: bool,
    if_generation: int | None,
    cancellation: Cancellation,
) -> Load:
    """Prepare the load of an adapter with a gate row from a few examples of its work (`rows_from_examples`).

    It is loaded twice: the first time under a name of its own, by which the texts are read; `Auto` can't choose
    that one. So a request sees the adapter with its row or not at all, and a failure leaves nothing. Needs a free
    slot and rows for that first time, also in a reload.
    """
    parse(meteora._registry, source, name, revision)  # what is wrong with it is said under its own name
    if reload and not meteora._rests(name):
        meteora.adapter(name)
    trial = f"trial-{secrets.token_hex(8)}"
    cancellation.hold()
    meteora._trials.add(trial)
    try:
        meteora._load_class(meteora, source, trial, "none", revision=revision).prepare(Cancellation()).publish()
        try:
            rows, examples = rows_from_examples(meteora, trial, name, texts, tokenizer, cancellation.check)
        finally:
            meteora.unload_adapter(trial)
    finally:
        meteora._trials.discard(trial)

    def published() -> None:  # others may have come meanwhile
        if meteora.statistics is not None:
            meteora.statistics = meteora.statistics.with_class(name, examples)

    load = meteora._load_class(
        meteora,
        source,
        name,
        rows,
        revision=revision,
        reload=reload,
        if_generation=if_generation,
        kind="examples",
        published=published,
    )
    return load.prepare(cancellation)


def rows_from_examples(
    meteora: Meteora,
    live: str,
    name: str,
    texts: Sequence[Text],
    tokenizer: Any,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, tuple[Tensor, float]], list[Example]]:
    """Gate rows from texts of the adapter `live`'s work, and these texts as they were read.

    Activations x of these texts are taken with the adapter itself at work, and those of the texts that the fit kept of
    the others with the gates in force. With the middle m of the others' means, and the mean scatter S of all classes:

        W = (S + shrinkage · diag(S))⁻¹ (mean_x - m) / T,   b = -W · (m + mean_x) / 2

    and from there a few steps down the cross-entropy of all these tokens, in which the others' rows stay as they are
    (`logistic.refine`). `check` is called with each batch; what it raises ends the reading.

    Warns:
        UserWarning: the new class can hardly be told from another; names it.

    Raises:
        MeteoraError: no statistics are kept: `fit_gates` was never run, or the bundle came without.
        ValueError: fewer than 8 texts, or something that is no text.
    """
    kept = meteora.statistics
    if kept is None:
        raise MeteoraError(
            f"adapter {name!r}: a list of examples needs the statistics of a fit; run fit_gates(), or load a "
            "bundle saved with its statistics, or give gate='arrow'"
        )
    check_texts(name, texts)
    if len(texts) < FEWEST:
        raise ValueError(f"adapter {name!r}: {len(texts)} examples; a gate takes {FEWEST} or more")
    examples = make_examples(
        {name: texts},
        tokenizer if tokenizer is not None else own_tokenizer(meteora),
        tokens=TOKENS,
        read=READ,
        max_length=MAX_LENGTH,
        tests_per_class=TESTS_PER_CLASS,
        seed=0,
    )
    others, fixed = _competitors(meteora, kept, name)
    lessons = Lessons([name, *others], BATCH_TOKENS, examples, _read_again(kept, others))
    rows: dict[str, tuple[Tensor, float]] = {}
    given = torch.zeros(len(lessons.names), len(lessons.names), dtype=torch.float32)
    adapters = [each for each in others if each != BASE]
    # One request for all of the others' texts: their gates may change meanwhile, but not for it.
    with meteora.routing(Auto(only=adapters) if adapters else BASE, top_k=1):

        def routing(batch: Batch) -> AbstractContextManager[Any]:
            return nullcontext() if batch.labels.any() else meteora.routing(live)

        for new in swept(meteora, lessons, routing, MEMORY_BUDGET, lambda _: check(), refine=True):
            there = fixed[new.path]
            row, bias = _row(new, kept.shrinkage[new.path], there)
            given += confusion((torch.cat([row, there[0]]), torch.cat([bias, there[1]])), *new.kept_back())
            rows[new.path] = (row[0] / kept.temperature, float(bias) / kept.temperature)
    _warn(name, lessons.names, given / given.sum(1, keepdim=True).clamp(min=1))
    return rows, examples


def _competitors(meteora: Meteora, kept: KeptStatistics, new: str) -> tuple[list[str], dict[str, Rows]]:
    """The classes of the fit that compete now, and for each group's leader their rows with its temperature taken out.

    Copies, for others may change theirs meanwhile.
    """
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
    return names, rows


def _read_again(kept: KeptStatistics, names: Sequence[str]) -> list[Example]:
    """The kept texts of these classes, labelled from 1 on; one token in eight tests, the others teach."""
    again = []
    for text in kept.texts:
        if (name := kept.names[text.label]) in names:
            test = tuple(range(1, len(text.ids), 8))
            teach = tuple(sorted({*range(len(text.ids))} - {*test}))  # the first, on which all others lean, among them
            again.append(Example(1 + names.index(name), text.ids, text.response, teach, test, False))
    return again


def _row(new: GroupActivations, shrinkage: float, others: Rows) -> Rows:
    means, scatter = new.statistics.means().cpu(), new.statistics.scatter().cpu()
    if not (means.isfinite().all() and scatter.isfinite().all()):
        raise ValueError(f"an activation at {new.path} is infinite or NaN")
    middle = means[1:].mean(0) if len(means) > 1 else means[0]
    offset = means[:1] - middle
    (row,) = shrunk_solve(scatter, [shrinkage], offset)
    bias = -(row * (middle + offset / 2)).sum(1)
    return new.refined((row.float(), bias.float()), shrinkage, others)


def _warn(name: str, names: Sequence[str], given: Tensor) -> None:
    """`given [C, C]`: of the class in the row, the share of tokens that go to the class in the column; 0 is new."""
    if len(names) == 1:
        return
    lost, taken = given[0, 1:].max(0), given[1:, 0].max(0)
    worst = lost if lost.values >= taken.values else taken
    share, other = float(worst.values), names[1 + int(worst.indices)]
    if share > LOST:
        which = f"its tokens would go to {other!r}" if worst is lost else f"{other!r}'s tokens would go to it"
        warnings.warn(
            f"adapter {name!r}: {share:.0%} of {which}: few examples can't tell the two apart; fit_gates() with "
            "texts of both, or use one of them by name",
            UserWarning,
            stacklevel=6,
        )
