"""A gate row for a new adapter from a few examples and what the last fit kept of the others."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meteora_rs.errors import MeteoraError
from meteora_rs.gates.fit.data import Text, check_texts, make_examples
from meteora_rs.gates.fit.discriminant import shrunk_solve
from meteora_rs.gates.fit.fit import TESTS_PER_CLASS, own_tokenizer
from meteora_rs.gates.fit.kept import KeptGroup, KeptStatistics
from meteora_rs.gates.fit.sweeps import Lessons, swept
from meteora_rs.handle.cancel import Cancellation
from meteora_rs.handle.pipeline import Load
from meteora_rs.source import AdapterSource, parse

if TYPE_CHECKING:
    from meteora_rs.gates.fit.collect import GroupActivations
    from meteora_rs.meteora import Meteora
    from meteora_rs.site import Site

FEWEST = 8
TOKENS, READ, MAX_LENGTH, BATCH_TOKENS, MEMORY_BUDGET = 1200, 4000, 512, 2048, 2 << 30

HARM = 0.3
"""Of another class's tokens, how many at an input the new row may take at most."""

LOST = 0.2
"""More held-out tokens lost to one other class than this are worth a warning."""

Competitors = dict[int, tuple[Tensor, Tensor]]
"""By label: a live class's row `[in]` and bias `[]` at one site, as they were when the reading began."""


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
            rows, statistics = rows_from_examples(meteora, trial, name, texts, tokenizer, cancellation.check)
        finally:
            meteora.unload_adapter(trial)
    finally:
        meteora._trials.discard(trial)

    def published() -> None:
        meteora.statistics = statistics

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
) -> tuple[dict[str, tuple[Tensor, float]], KeptStatistics]:
    """Gate rows from texts of the adapter `live`'s work, and the statistics with `name` as one class more.

    Activations x are taken with the adapter itself active. With the kept means' middle m, scatter S of C classes:

        S' = (C · S + scatter_x) / (C + 1), its diagonal times 1 + shrinkage,   W = S'⁻¹ (mean_x - m)

    the bias is moved to where the row loses as large a share of its own held-out tokens as it takes of the class that
    it harms most, and further down until that is at most `HARM`. Only this row is new: the others' stay. `check` is
    called with each batch; what it raises ends the reading.

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
    label = kept.label(name)
    competitors = _competitors(meteora, kept, name)
    rows: dict[str, tuple[Tensor, float]] = {}
    groups: dict[str, KeptGroup] = {}
    lost = torch.zeros(max(label, len(kept.names)) + 1, dtype=torch.float32)
    lessons = Lessons([name], examples, BATCH_TOKENS)
    for new in swept(meteora, lessons, lambda _: meteora.routing(live), MEMORY_BUDGET, lambda _: check()):
        others = competitors[new.path]
        row, bias = _row(kept, new, others)
        tests = new.kept_back()[0]
        taken = _taken_by(tests, row, bias, others)
        lost += torch.bincount(taken[taken >= 0], minlength=len(lost)) / max(1, len(tests))
        rows[new.path] = (row, bias)
        groups[new.path] = kept.groups[new.path].with_class(label, new.statistics.means()[0].cpu().float(), tests)
    _warn(name, kept, lost / len(groups))
    names = [*kept.names, name] if label == len(kept.names) else kept.names
    return rows, KeptStatistics(names, kept.pooled, kept.temperature, kept.shrinkage, groups)


def _competitors(meteora: Meteora, kept: KeptStatistics, new: str) -> dict[str, Competitors]:
    """The kept classes that compete now, at each group's leader: copies, for others may change theirs meanwhile."""
    with meteora._writer:
        hold, records = meteora._hold()
        slots = meteora._given_slots([record for record in records if record.gate in ("fitted", "examples")])
    places = {place: slots[name] for place, name in enumerate(kept.names) if name in slots and name != new}

    def at(site: Site) -> Competitors:
        gate, bias = site.gate, site.gate_bias
        return {place: (gate[slot].cpu().clone(), bias[slot].cpu().clone()) for place, slot in places.items()}

    competitors = {group.leader.path: at(group.leader) for group in meteora.groups}
    del hold
    return competitors


def _row(kept: KeptStatistics, new: GroupActivations, others: Competitors) -> tuple[Tensor, float]:
    group = kept.groups[new.path]
    mean, scatter = new.statistics.means()[0].cpu(), new.statistics.scatter().cpu()
    if not (mean.isfinite().all() and scatter.isfinite().all()):
        raise ValueError(f"an activation at {new.path} is infinite or NaN")
    scatter.add_(group.scatter(), alpha=kept.pooled).div_(kept.pooled + 1)
    middle = group.middle.double()
    offset = mean - middle
    (weights,) = shrunk_solve(scatter, [kept.shrinkage[new.path]], offset[None])
    row = weights[0] / kept.temperature
    bias = float(-(row * (middle + offset / 2)).sum())
    row = row.float()
    own = _margins(new.kept_back()[0], row, others)
    tokens = group.tokens.float() * group.token_unit
    theirs = [_margins(tokens[group.labels == place], row, others) for place in others]
    return row, balanced_bias(own, [each for each in theirs if len(each)], bias, kept.temperature)


def _margins(x: Tensor, row: Tensor, others: Competitors) -> Tensor:
    """How far the new row, without a bias, is above the best of the others, for each token."""
    if not others:
        return x @ row
    best = torch.stack([x @ weights + bias for weights, bias in others.values()]).amax(0)
    return x @ row - best


def balanced_bias(own: Tensor, theirs: Sequence[Tensor], start: float, temperature: float) -> float:
    """The bias at which the shares of tokens lost, and taken of the class most harmed, are alike, or it is `HARM`."""
    if not theirs or not len(own):
        return start
    margins = [own.double() * temperature, *(each.double() * temperature for each in theirs)]
    reach = max(float(each.abs().max()) for each in margins) + 20.0
    low, high = -reach, reach
    for _ in range(60):
        middle = (low + high) / 2
        taken = [float(torch.sigmoid(each + middle).mean()) for each in margins[1:]]
        lost = float(torch.sigmoid(-margins[0] - middle).mean())
        too_high = max(taken) > min(lost, HARM)
        low, high = (low, middle) if too_high else (middle, high)
    return low / temperature


def _taken_by(x: Tensor, row: Tensor, bias: float, others: Competitors) -> Tensor:
    """The label that each token goes to; -1: the new one."""
    labels = torch.tensor([-1, *others])
    logits = torch.stack([x @ row + bias, *(x @ weights + other for weights, other in others.values())])
    return labels[logits.argmax(0)]


def _warn(name: str, kept: KeptStatistics, lost: Tensor) -> None:
    worst = int(lost.argmax())
    if float(lost[worst]) > LOST:
        warnings.warn(
            f"adapter {name!r}: {float(lost[worst]):.0%} of its tokens would go to {kept.names[worst]!r}: few examples "
            "can't tell the two apart; fit_gates() with texts of both, or use one of them by name",
            UserWarning,
            stacklevel=6,
        )
