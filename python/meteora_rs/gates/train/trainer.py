"""transformers' Trainer with both terms of the loss in its log, and checkpoints that know their classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer

from meteora_rs.errors import MeteoraError

from .callbacks import CLASSES, NoteClasses, Progress


class GateTrainer(Trainer):
    """Minimises lm_loss + beta · gate_loss of a module whose forward returns the two.

    Gradients are means over micro-batches and processes, as is usual. Examples come in the order of the data set.
    """

    def __init__(self, *, beta: float, classes: Mapping[str, Any], progress: bool, **options: Any) -> None:
        super().__init__(callbacks=[NoteClasses(classes), Progress(progress)], **options)
        self.remove_callback(PrinterCallback)  # it prints every line of the log to stdout
        self.beta = beta
        self._terms = torch.zeros(3, dtype=torch.float64)  # lm_loss, gate_loss, batches since the last log

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """The objective of one batch; its terms are noted for the log."""
        lm_loss, gate_loss = model(**inputs)
        self._terms += torch.tensor([float(lm_loss.detach()), float(gate_loss.detach()), 1.0], dtype=torch.float64)
        loss: Tensor = lm_loss + self.beta * gate_loss
        return loss

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """Log as ever, with `lm_loss` and `gate_loss`, means since the last time over all processes."""
        if "loss" in logs:
            summed = self.accelerator.reduce(self._terms.float().to(self.args.device), reduction="sum")
            lm_loss, gate_loss, batches = summed.tolist()
            logs["lm_loss"], logs["gate_loss"] = lm_loss / batches, gate_loss / batches
            self._terms.zero_()
        super().log(logs, *arguments)


def check_checkpoint(folder: Path, classes: Mapping[str, Any]) -> None:
    """Refuse to go on from gates of other classes or another model; the weights alone would fit by chance.

    Raises:
        MeteoraError: what differs.
        OSError: there is no such checkpoint.
    """
    try:
        found = json.loads((folder / CLASSES).read_text())
    except ValueError as error:
        raise MeteoraError(f"not a checkpoint of gates: {error} (file: {folder / CLASSES})") from error
    for key, value in classes.items():
        if found.get(key) != value:
            raise MeteoraError(
                f"the checkpoint has {key} {found.get(key)!r} where {value!r} is wanted (file: {folder / CLASSES})"
            )
