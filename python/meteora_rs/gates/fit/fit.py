"""The closed-form fit: read the examples with every adapter at work, solve, read again with the gates on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm

from meteora_rs.attached.attached import Attached
from meteora_rs.gates.gated import Gated
from meteora_rs.gates.kept import KeptText, KeptTexts
from meteora_rs.routes import BASE, Auto
from meteora_rs.serving.gating import Gating

from .choice import CLOSED, REFINED, Candidate, choose_gates
from .data import Batch, Example, Text, make_examples, one_in_three
from .general import general_texts
from .held_out import READ, READ_TO_REFINE, HeldOut
from .keep import kept_texts
from .report import FitReport, PassReport, by_kind, make_report
from .sweeps import Gates, Lessons, Solved, by_name, mean_recall, run_pass, sweeps
from .temperature import choose_temperature
from .trial import restored_on_failure

TESTS_PER_CLASS = 64
"""Whole activations of each class, to choose the shrinkage and judge a pass by."""

TOKENS = 1500
"""Of a class, enough for the closed form."""

SHRINKAGES = (3e-3, 1e-2, 3e-2)
FIRST_SHRINKAGE = 3e-2


def fit_gates(
    meteora: Gated,
    data: Mapping[str, Sequence[Text]],
    *,
    base: str | None = "general",
    tokenizer: Any = None,
    passes: int = 2,
    refine: bool = False,
    shrinkage: float | None = None,
    temperature: float | None = None,
    tokens: int | None = None,
    read: int = 3000,
    max_length: int = 512,
    batch_tokens: int = 2048,
    memory_budget: int = 2 << 30,
    seed: int = 0,
    progress: bool = True,
) -> FitReport:
    """Fits the gates of the adapters in `data`, and the base as a class of its own, from texts.

    For every input group, with the activations x of each class:

        W_c = S⁻¹ (mean_c - m) / T,   b_c = -W_c · (m + mean_c) / 2        (`discriminant.solve`)

    The first pass takes activations with the sample's own adapter in every layer; each further pass takes them with
    the gates just fitted, one adapter a token, since that is what the gates will meet, and lets tokens that those gave
    to another class count more (`collect.GroupActivations`); the last pass alone counts. Shrinkage, for each kind of
    input, priors and T are chosen on texts that never teach (one in eight, 16 of a class at most): the first by the
    share of their tokens routed right, the others by the model's loss on their responses: a prior is added to b_c
    where a class's responses are worse than with its own adapter (`priors.choose_priors`), and T is for tokens that
    mix adapters (`top_k` ≥ 2; the choice of adapters does not depend on it). Deterministic for one seed.

    Adapters that `data` leaves out keep their gates, which are on another scale, and so compete badly or too well
    with the fitted ones: fit all adapters that `Auto()` shall choose among, give the others `gate="none"`, or name
    those that were fitted together in `Auto(only=…)`.

    Args:
        data: for each adapter (and `"__base__"`) texts or (prompt, response) pairs; 60 do.
        base: `"general"`: where `data` has no `"__base__"`, the texts that come with the package make the base a
            class, so that text which belongs to no adapter is left to the base. None: no such class; an older one
            is switched off.
        tokenizer: the model's own by default.
        passes: 1 or more.
        shrinkage: share of each coordinate's variance added to it, above 0; None: chosen.
        temperature: T, above 0; None: chosen.
        refine: go on from the closed form by logistic regression (`logistic.refine`), and keep what comes of it if
            held-out responses lose less, or as much and more tokens are routed right (`choice.choose_gates`): better
            gates in twice the time or more, as the teaching activations share `memory_budget`.
        tokens: of each adapter, to learn from; None: 1,500, and with `refine` as many as are read.
        read: tokens of each adapter to read at most; texts beyond are left out. Of the base's, both are three times as
            many (`data.BREADTH`).
        max_length: tokens of a text to read.
        batch_tokens: tokens to read at once.
        memory_budget: bytes for statistics and kept-back activations, 2 GiB by default. If they do not fit, a pass
            is several sweeps over the texts, each for some layers: the same gates, more time. Solving takes
            24 · width² bytes beside it, and `refine` 4 · width for each teaching token.
        progress: show a bar with the time left.

    Raises:
        ValueError: fewer than two classes, an option out of range, no tokenizer, or a class without text.
        AdapterNotFoundError: a name that no live adapter has.
        AdapterInUseError: a request is running: it would meet the gates that are tried on the way.

    Any exception, Ctrl-C included, leaves the gates as they were.
    Source: MeteoRA, arXiv 2405.13053, section 3.3 trains the same objective by gradient descent.
    """
    data = _with_base(data, base)
    tokens = tokens if tokens is not None else read if refine else TOKENS
    if passes < 1 or not (shrinkage is None or shrinkage > 0) or min(tokens, read, max_length, batch_tokens) < 1:
        raise ValueError("fit_gates: passes and token counts must be at least 1, shrinkage above 0")
    if memory_budget < 1 or not (temperature is None or temperature > 0):
        raise ValueError("fit_gates: memory_budget must be at least 1, temperature above 0")
    _require_ready(meteora, data)
    names = list(data)
    examples = make_examples(
        data,
        tokenizer if tokenizer is not None else own_tokenizer(meteora),
        tokens=tokens,
        read=read,
        max_length=max_length,
        tests_per_class=TESTS_PER_CLASS,
        seed=seed,
    )
    first, last = Lessons(names, batch_tokens, one_in_three(examples)), Lessons(names, batch_tokens, examples)
    lessons = [first] * (passes - 1) + [last]
    total = sum(each.read * len(sweeps(meteora, each, memory_budget, refine and each is last)) for each in lessons)
    # Adapters outside the fit have logits on another scale; they must not take tokens here.
    fitted = Auto(only=[name for name in names if name != BASE])
    with (
        tqdm(total=total, unit="token", unit_scale=True, disable=not progress) as bar,
        restored_on_failure(meteora, [*names, BASE]),
    ):
        if BASE not in data:
            meteora.set_gates({BASE: None})
        solved, reports = _read(meteora, lessons, fitted, bar, shrinkage, memory_budget, refine)
        start = time.perf_counter()
        bar.set_description("fitting gates, priors")
        held = HeldOut(meteora, names, examples, fitted, bar.set_postfix_str, READ_TO_REFINE if refine else READ)
        tried = {CLOSED: Candidate(by_name(solved.best(), names), mean_recall(solved.best_confusions()))}
        if refine:
            tried[REFINED] = Candidate(by_name(solved.refined, names), mean_recall(solved.refined_confusions))
        chosen = choose_gates(meteora, tried, held)
        losses: dict[str, float] = {}
        if temperature is None:
            bar.set_description("fitting gates, temperature")
            temperature, losses = choose_temperature(
                held, chosen.loss, meteora.config.top_k, meteora.config.temperature
            )
        bar.set_postfix_str("")
        meteora.set_gates(_sharpened(chosen.gates, temperature))
        meteora.kept_texts = KeptTexts(names, temperature, solved.shrinkage(), _texts_to_keep(names, examples))
    texts = {name: len(texts) for name, texts in data.items()}
    seconds = time.perf_counter() - start
    return make_report(names, texts, last.counts, reports, solved, chosen, temperature, losses, seconds)


def _require_ready(meteora: Gating, data: Mapping[str, Sequence[Text]]) -> None:
    if len(data) < 2:
        raise ValueError("fit_gates: needs two classes or more, for example an adapter and '__base__'")
    for name in data:
        if name != BASE:
            meteora.adapter(name)
    meteora._require_quiet("fit_gates tries gates on its way, which other requests would follow")


def _read(
    meteora: Gating,
    lessons: Sequence[Lessons],
    fitted: Auto,
    bar: tqdm[Any],
    shrinkage: float | None,
    memory_budget: int,
    refine: bool,
) -> tuple[Solved, list[PassReport]]:
    """All passes, each under the gates of the one before; the last one's outcome, whose gates are in force."""
    solved, reports = None, []
    for number, each in enumerate(lessons):
        last = number == len(lessons) - 1
        bar.set_description(f"fitting gates, pass {number + 1} of {len(lessons)}")
        start = time.perf_counter()
        given = shrinkage or (None if last else FIRST_SHRINKAGE)
        solved = run_pass(
            meteora,
            each,
            _gated(meteora, fitted) if number else _named(meteora, each.names),
            SHRINKAGES if given is None else (given,),
            memory_budget,
            bar.update,
            judges=None if solved is None else solved.best(),
            refine=refine and last,
        )
        meteora.set_gates(by_name(solved.best(), each.names))
        reports.append(PassReport(time.perf_counter() - start, by_kind(solved)))
    assert solved is not None
    return solved, reports


def _texts_to_keep(names: Sequence[str], examples: Sequence[Example]) -> list[KeptText]:
    return [
        text
        for label, name in enumerate(names)
        for text in kept_texts([example for example in examples if example.label == label], label, name)
    ]


def own_tokenizer(meteora: Attached) -> Any:
    """The tokenizer that lies where the model is from.

    Raises:
        ValueError: the model doesn't say where it is from, or there is none.
    """
    from transformers import AutoTokenizer

    name = getattr(meteora.model.config, "_name_or_path", "")
    if not name:
        raise ValueError("the model does not say where it is from; give tokenizer=")
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"no tokenizer found at {name!r} ({error}); give tokenizer=") from error


def _with_base(data: Mapping[str, Sequence[Text]], base: str | None) -> Mapping[str, Sequence[Text]]:
    if base not in ("general", None):
        raise ValueError(f"fit_gates: base must be 'general' or None, not {base!r}; own texts: data['__base__']")
    if base is None and BASE in data:
        raise ValueError("fit_gates: base=None means no class for the base, but data has '__base__'")
    return {**data, BASE: general_texts()} if base == "general" and BASE not in data else data


def _sharpened(gates: Gates, temperature: float) -> Gates:
    """Logits divided by T: the same adapters are chosen, and the softmax over them is that of T."""
    return {
        name: {path: (row / temperature, bias / temperature) for path, (row, bias) in rows.items()}
        for name, rows in gates.items()
    }


def _named(meteora: Gating, names: Sequence[str]) -> Callable[[Batch], AbstractContextManager[Any]]:
    return lambda batch: meteora.routing([names[label] for label in batch.labels.tolist()])


def _gated(meteora: Gating, fitted: Auto) -> Callable[[Batch], AbstractContextManager[Any]]:
    # One adapter a token, whatever the model's own top_k: every token's error then shows in full.
    return lambda _: meteora.routing(fitted, top_k=1)
