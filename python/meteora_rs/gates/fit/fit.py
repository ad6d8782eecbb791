"""The closed-form fit: read the examples with every adapter at work, solve, read again with the gates on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from meteora_rs.context import Plan
from meteora_rs.routes import BASE, Auto, to_native

from .collect import GroupActivations, collect
from .data import Batch, Example, Text, batches, make_examples
from .discriminant import solve
from .report import FitReport, PassReport
from .statistics import ClassStatistics
from .trial import restored_on_failure

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

# Whole activations kept back for each class, to judge a pass by.
TESTS_PER_CLASS = 64

Gates = dict[str, dict[str, tuple[Tensor, float]]]


def fit_gates(
    meteora: Meteora,
    data: Mapping[str, Sequence[Text]],
    *,
    tokenizer: Any = None,
    passes: int = 2,
    shrinkage: float = 0.01,
    max_tokens: int = 24,
    max_length: int = 512,
    batch_tokens: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> FitReport:
    """Fits the gates of the adapters in `data`, and of the base if `"__base__"` is there, from its texts.

    For every input group, with the activations x of each class:

        W_c = S⁻¹ (mean_c - m),   b_c = -W_c · (m + mean_c) / 2        (`discriminant.solve`)

    The first pass takes activations with the sample's own adapter in every layer; each further pass takes
    them with the gates just fitted, one adapter a token, since that is what the gates will meet; the last
    pass alone counts. Adapters that `data` leaves out keep their gates. Deterministic for one seed.

    Args:
        data: for each adapter (and `"__base__"`) texts or (prompt, response) pairs; 60 do.
        tokenizer: the model's own by default.
        passes: 1 or more.
        shrinkage: share of the mean variance added to the scatter's diagonal, above 0.
        max_tokens: tokens of a text to learn from, drawn at random from prompt and response.
        max_length: tokens of a text to read.
        batch_tokens: tokens to read at once.
        progress: show a bar with the time left.

    Raises:
        ValueError: fewer than two classes, an option out of range, no tokenizer, or a class without text.
        AdapterNotFoundError: a name that no live adapter has.
        AdapterInUseError: a request is running; gates change in place, between requests.

    Any exception, Ctrl-C included, leaves the gates as they were.
    Source: MeteoRA, arXiv 2405.13053, section 3.3 trains the same objective by gradient descent.
    """
    if len(data) < 2:
        raise ValueError("fit_gates: needs two classes or more, for example an adapter and '__base__'")
    if passes < 1 or shrinkage <= 0 or min(max_tokens, max_length, batch_tokens) < 1:
        raise ValueError("fit_gates: passes and token counts must be at least 1, shrinkage above 0")
    for name in data:
        if name != BASE:
            meteora.adapter(name)
    meteora.set_gates({})  # refused while a request is running: better now than after a pass
    examples = make_examples(
        data,
        tokenizer if tokenizer is not None else _own_tokenizer(meteora),
        max_tokens=max_tokens,
        max_length=max_length,
        tests_per_class=TESTS_PER_CLASS,
        seed=seed,
    )
    lessons = Lessons(list(data), list(batches(examples, batch_tokens)), _counts(examples, len(data)))
    total = passes * sum(len(example.ids) for example in examples)
    reports = []
    with (
        tqdm(total=total, unit="token", unit_scale=True, disable=not progress) as bar,
        restored_on_failure(meteora, lessons.names),
    ):
        for number in range(passes):
            bar.set_description(f"fitting gates, pass {number + 1} of {passes}")
            routing = _gated if number else _named
            gates, report = _one_pass(meteora, lessons, routing(meteora, lessons.names), shrinkage, bar)
            meteora.set_gates(gates)
            reports.append(report)
    texts = {name: len(texts) for name, texts in data.items()}
    return FitReport(texts, dict(zip(data, lessons.counts.int().tolist(), strict=True)), reports)


@dataclass(frozen=True)
class Lessons:
    """What every pass reads: batches, the names of the labels, and how many tokens teach each class."""

    names: list[str]
    packed: list[Batch]
    counts: Tensor


def _counts(examples: Sequence[Example], classes: int) -> Tensor:
    counts = torch.zeros(classes, dtype=torch.float64)
    for example in examples:
        counts[example.label] += len(example.teach)
    return counts


def _one_pass(
    meteora: Meteora,
    lessons: Lessons,
    routing: Callable[[Batch], AbstractContextManager[Any]],
    shrinkage: float,
    bar: tqdm[Any],
) -> tuple[Gates, PassReport]:
    start = time.perf_counter()
    leaders = [group.leader for group in meteora.groups]
    groups = [GroupActivations(site.path, ClassStatistics(site.in_features, lessons.counts)) for site in leaders]
    collect(meteora.model, groups, lessons.packed, routing, bar.update)
    bar.set_postfix_str("solving")
    gates: Gates = {name: {} for name in lessons.names}
    right: dict[str, int] = defaultdict(int)
    of: dict[str, int] = defaultdict(int)
    for group in groups:
        rows, biases = solve(group.statistics, shrinkage, where=group.path)
        kind = group.path.rpartition(".")[2]
        hits, tests = group.accuracy(rows, biases)
        right[kind] += hits
        of[kind] += tests
        for name, row, bias in zip(lessons.names, rows.cpu(), biases.tolist(), strict=True):
            gates[name][group.path] = (row, bias)
    bar.set_postfix_str("")
    accuracy = {kind: right[kind] / of[kind] for kind in of if of[kind]}
    return gates, PassReport(time.perf_counter() - start, accuracy)


def _named(meteora: Meteora, names: Sequence[str]) -> Callable[[Batch], AbstractContextManager[Any]]:
    return lambda batch: meteora.routing([names[label] for label in batch.labels.tolist()])


def _gated(meteora: Meteora, names: Sequence[str]) -> Callable[[Batch], AbstractContextManager[Any]]:
    # Adapters outside the fit have logits on another scale; they must not take tokens here.
    fitted = to_native(Auto(only=[name for name in names if name != BASE]))

    def routing(_: Batch) -> AbstractContextManager[Any]:
        # One adapter a token, whatever the model's own top_k: every token's error then shows in full.
        return meteora._context.enter(Plan(meteora._registry.plan([fitted], 1, 1.0), None))

    return routing


def _own_tokenizer(meteora: Meteora) -> Any:
    from transformers import AutoTokenizer

    name = getattr(meteora.model.config, "_name_or_path", "")
    if not name:
        raise ValueError("fit_gates: the model does not say where it is from; give tokenizer=")
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"fit_gates: no tokenizer found at {name!r} ({error}); give tokenizer=") from error
