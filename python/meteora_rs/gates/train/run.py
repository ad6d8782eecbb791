"""A training through transformers' Trainer, with the base and the adapters frozen, and its checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainingArguments

from meteora_rs.attached.attached import Attached
from meteora_rs.errors import MeteoraError

from .data import BalancedExamples, Example, collate
from .frozen import frozen
from .mode import training_mode
from .report import TERMS
from .trainer import GateTrainer, check_checkpoint

DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "logging_steps": 10,
    "save_total_limit": 2,
}
"""Of TrainingArguments, where the caller gives nothing else."""

OURS = {
    "output_dir", "max_steps", "seed", "use_cpu", "remove_unused_columns", "report_to", "disable_tqdm", "torch_compile",
}  # fmt: skip
"""Of TrainingArguments: follow from our own arguments, or can't be."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what would change the training behind our back, and to begin without what it takes.

    Raises:
        ValueError: an argument that is none here; names it.
        MeteoraError: accelerate is not installed.
    """
    if find_spec("accelerate") is None:
        raise MeteoraError("training gates needs accelerate: pip install 'meteora-rs[train]'")
    if taken := sorted(set(arguments) & OURS):
        raise ValueError(f"training gates: {taken[0]} is no option here")


def run(
    meteora: Attached,
    gates: nn.Module,
    classes: Sequence[Sequence[Example]],
    adapters: Sequence[str],
    known: Mapping[str, Any],
    *,
    beta: float,
    steps: int,
    seed: int,
    gradient_checkpointing: bool,
    output_dir: str | Path | None,
    resume_from_checkpoint: str | Path | bool,
    progress: bool,
    arguments: Mapping[str, Any],
) -> tuple[list[dict[str, float]], int]:
    """Trains `gates`, whose forward returns both terms of the loss; returns the loss curves and the steps done.

    `known` is noted in each checkpoint, and held against the one that is resumed.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        training_mode(meteora.model, gradient_checkpointing=gradient_checkpointing),
        frozen(meteora, adapters),
    ):
        options = TrainingArguments(
            output_dir=str(output_dir or scratch), max_steps=steps, seed=seed, report_to="none", disable_tqdm=True,
            use_cpu=next(meteora.model.parameters()).device.type == "cpu", remove_unused_columns=False,
            **{"save_strategy": "steps" if output_dir else "no", **DEFAULTS, **arguments},
        )  # fmt: skip
        batch = options.train_batch_size * options.gradient_accumulation_steps * options.world_size
        trainer = GateTrainer(
            model=gates, args=options, data_collator=collate, beta=beta, classes=known, progress=progress,
            train_dataset=BalancedExamples(classes, steps, batch, seed),
        )  # fmt: skip
        checkpoint = _checkpoint(resume_from_checkpoint, output_dir)
        if checkpoint is not None:
            check_checkpoint(checkpoint, known)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        log, done = trainer.state.log_history, trainer.state.global_step
    return [{key: line[key] for key in ("step", *TERMS, "learning_rate")} for line in log if TERMS[0] in line], done


def _checkpoint(asked: str | Path | bool, output_dir: str | Path | None) -> Path | None:
    from transformers.trainer_utils import get_last_checkpoint

    find: Any = get_last_checkpoint  # has no types
    if asked is False:
        return None
    if asked is not True:
        return Path(asked)
    last = find(str(output_dir)) if output_dir and Path(output_dir).is_dir() else None
    if last is None:
        raise ValueError(f"training gates: there is no checkpoint to resume from in output_dir={str(output_dir)!r}")
    return Path(last)
