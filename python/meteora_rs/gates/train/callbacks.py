"""What happens beside the steps of a training: a bar, the last line of the log, what a checkpoint is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

CLASSES = "meteora_classes.json"
"""Beside a checkpoint's weights: of which classes they are, in which order."""


class Progress(TrainerCallback):
    """A bar on stderr with the time left and both terms of the loss; the last step is always logged."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._bar: tqdm[Any] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin where a resumed run goes on."""
        hidden = not (self._show and state.is_world_process_zero)
        total, done = state.max_steps, state.global_step
        self._bar = tqdm(desc="training gates", unit="step", total=total, initial=done, disable=hidden)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One step more."""
        if self._bar is not None:
            self._bar.update()
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        """Show the terms."""
        if self._bar is not None and "gate_loss" in logs:
            self._bar.set_postfix_str(f"lm {logs['lm_loss']:.4f}, gate {logs['gate_loss']:.4f} nats")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()


class NoteClasses(TrainerCallback):
    """Writes `CLASSES` into each checkpoint."""

    def __init__(self, classes: Mapping[str, Any]) -> None:
        self._classes = classes

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called when the rest of the checkpoint is there."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            (folder / CLASSES).write_text(json.dumps(self._classes) + "\n")
