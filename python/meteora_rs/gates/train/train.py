"""`train_gates`: the paper's own way to gates, through transformers' Trainer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from meteora_rs.gates.fit.data import Text
from meteora_rs.gates.fit.fit import own_tokenizer
from meteora_rs.gates.fit.general import general_texts
from meteora_rs.gates.gated import Gated
from meteora_rs.routes import BASE

from .data import make_examples
from .report import TrainReport
from .run import check_arguments, run
from .trainee import Rows, SiteGates


def train_gates(
    meteora: Gated,
    data: Mapping[str, Sequence[Text]],
    *,
    base: str | None = "general",
    tokenizer: Any = None,
    beta: float = 50.0,
    steps: int = 300,
    top_k: int | None = None,
    cold: bool = False,
    max_length: int = 512,
    gradient_checkpointing: bool = False,
    seed: int = 0,
    output_dir: str | Path | None = None,
    resume_from_checkpoint: str | Path | bool = False,
    progress: bool = True,
    **arguments: Any,
) -> TrainReport:
    """Trains the gates of the adapters in `data`, and of the base as a class, with the base and adapters frozen.

        loss = LM cross-entropy on the responses + beta · mean over sites and tokens of CE(softmax(W x + b), own class)

    with the gates in training choosing among the classes, so that activations are those that they will meet. Requests
    meanwhile see the gates that were there; the new ones replace them all at once when the training has ended. With
    `top_k=1` neither term has a gradient through the model, and none is taken: a step costs a forward pass. One gate
    is trained for each input group (q, k, v share one), so that one evaluation serves the group as with fitted gates;
    the mean over sites counts it as often as it has sites.

    Starts from the rows in force if every class has some (those of a group's first site), else, or if `cold`, from
    N(0, 0.001²) without a bias. Every class is drawn as often as any other. Deterministic for one seed, and when
    resumed. With several processes (accelerate, torchrun) each calls this with its own attached model.

    Args:
        data: for each adapter (and `"__base__"`) texts or (prompt, response) pairs.
        base: as in `fit_gates`.
        tokenizer: the model's own by default.
        beta: weight of the gate term, 0 or more; above 0 where `top_k` is 1.
        steps: optimizer steps; with 16 texts each by default.
        top_k: adapters that a token mixes meanwhile; the config's by default.
        max_length: tokens of a text to read.
        gradient_checkpointing: compute layers again in the backward pass: less memory, more time.
        output_dir: for checkpoints of the gates (every `save_steps`, and the last); none are written without it.
        resume_from_checkpoint: a checkpoint's folder, or True for the last one in `output_dir`.
        arguments: of transformers' TrainingArguments: learning_rate, per_device_train_batch_size, bf16, save_steps, …

    Raises:
        ValueError: an option out of range, fewer than two classes, a class without text, or no tokenizer.
        AdapterNotFoundError: a name that no live adapter has.
        AdapterInUseError: requests run when it ends, and there are not enough free slots for new rows (`set_gates`).
            With `output_dir` what was learnt is in the last checkpoint: resume from it, which takes no further step.
        MeteoraError: a checkpoint of other classes, or the base or an adapter changed meanwhile.

    Any exception, Ctrl-C included, leaves the gates as they were.
    Source: MeteoRA, arXiv 2405.13053, section 3.3 and appendix (beta, AdamW, cosine).
    """
    top_k = min(meteora.config.top_k if top_k is None else top_k, meteora._registry.slots)
    data = _with_base(data, base)
    if len(data) < 2:
        raise ValueError("train_gates: needs two classes or more, for example an adapter and '__base__'")
    if steps < 1 or max_length < 2 or top_k < 1 or not beta >= 0 or (top_k == 1 and beta == 0):
        raise ValueError(
            "train_gates: steps and top_k at least 1, max_length at least 2, beta at least 0, and above it for top_k=1"
        )
    check_arguments(arguments)
    data = {name if name == BASE else meteora.adapter(name).name: texts for name, texts in data.items()}  # no aliases
    names = list(data)
    classes = make_examples(data, tokenizer if tokenizer is not None else own_tokenizer(meteora), max_length)
    rows = None if cold else _rows_in_force(meteora, names)
    gates = SiteGates(meteora, names, rows, top_k, seed)
    texts = {name: len(texts) for name, texts in data.items()}
    begun = time.perf_counter()
    curve, done = run(
        meteora, gates, classes, names, {"classes": names, "sites": gates.paths}, beta=beta, steps=steps, seed=seed,
        gradient_checkpointing=gradient_checkpointing, output_dir=output_dir,
        resume_from_checkpoint=resume_from_checkpoint, progress=progress, arguments=arguments,
    )  # fmt: skip
    meteora.set_gates({**({} if BASE in data else {BASE: None}), **gates.rows()})
    if rows is None:
        meteora.kept_texts = None  # of rows on another scale, which are gone
    seconds = time.perf_counter() - begun
    return TrainReport(names, texts, "cold" if rows is None else "rows", top_k, beta, done, seconds, curve)


def _with_base(data: Mapping[str, Sequence[Text]], base: str | None) -> Mapping[str, Sequence[Text]]:
    if base not in ("general", None):
        raise ValueError(f"train_gates: base must be 'general' or None, not {base!r}; own texts: data['__base__']")
    if base is None and BASE in data:
        raise ValueError("train_gates: base=None means no class for the base, but data has '__base__'")
    return {**data, BASE: general_texts()} if base == "general" and BASE not in data else data


def _rows_in_force(meteora: Gated, names: Sequence[str]) -> Rows | None:
    rows = meteora.gate_rows()
    return {name: rows[name] for name in names} if set(names) <= set(rows) else None
