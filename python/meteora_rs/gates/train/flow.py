"""LoRA-Flow's layer gate, learnt from a few examples of a task (the gate itself: `gates.flow`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from meteora_rs.gates.fit.data import Text
from meteora_rs.gates.fit.fit import own_tokenizer
from meteora_rs.gates.flow import FlowGate
from meteora_rs.gates.gated import Gated
from meteora_rs.routes import Auto

from .data import make_examples
from .lm_loss import lm_loss
from .report import TrainReport
from .run import check_arguments, run


def train_flow_gate(
    meteora: Gated,
    texts: Sequence[Text],
    *,
    adapters: Sequence[str] | None = None,
    tokenizer: Any = None,
    steps: int = 60,
    max_length: int = 512,
    gradient_checkpointing: bool = False,
    seed: int = 0,
    output_dir: str | Path | None = None,
    resume_from_checkpoint: str | Path | bool = False,
    progress: bool = True,
    **arguments: Any,
) -> TrainReport:
    """Learns how much of each adapter each layer shall take for a task that has none of its own, and sets the gate.

        loss = LM cross-entropy on the responses,   w = softmax(W x) + b in every layer (`gates.flow`)

    from equal weights for all. Two hundred examples do. The sites' own gate rows stay; `set_flow_gate(None)` lets them
    choose again.

    Args:
        texts: texts or (prompt, response) pairs of the task.
        adapters: names; all adapters that `Auto()` may choose if left out.
        steps: optimizer steps, with 16 texts each by default.
        Others as in `train_gates`.

    Raises:
        ValueError: an option out of range, no adapter, no text of two tokens or more, or no tokenizer.
        AdapterNotFoundError, RouteError: a name that no live adapter has, or one that `Auto` can't choose.
        MeteoraError: a checkpoint of another gate, or the base or an adapter changed meanwhile.

    Any exception, Ctrl-C included, leaves the flow gate as it was.
    Source: LoRA-Flow (Wang et al. 2024, arXiv 2402.11455).
    """
    names = list(adapters if adapters is not None else (each.name for each in meteora.adapters() if each.routable))
    if not names or steps < 1 or max_length < 2:
        raise ValueError("train_flow_gate: one adapter or more, steps at least 1, max_length at least 2")
    check_arguments(arguments)
    names = [meteora.adapter(name).name for name in names]  # no aliases
    examples = make_examples(
        {"texts": texts}, tokenizer if tokenizer is not None else own_tokenizer(meteora), max_length
    )
    trainee = FlowTrainee(meteora, FlowGate.of(meteora, names))
    meteora._follow_flow_gates()
    begun = time.perf_counter()
    curve, done = run(
        meteora, trainee, examples, names, {"flow": names, "layers": list(trainee.gate.layers)}, beta=0.0, steps=steps,
        seed=seed, gradient_checkpointing=gradient_checkpointing, output_dir=output_dir,
        resume_from_checkpoint=resume_from_checkpoint, progress=progress, arguments=arguments,
    )  # fmt: skip
    meteora.set_flow_gate(trainee.gate)
    seconds = time.perf_counter() - begun
    return TrainReport(names, {"task": len(texts)}, "equal weights", len(names), 0.0, done, seconds, curve)


class FlowTrainee(nn.Module):
    """A flow gate as the Trainer needs it: its forward returns the loss of a batch; there is no gate term."""

    def __init__(self, meteora: Gated, gate: FlowGate) -> None:
        super().__init__()
        self.gate = gate
        self._meteora = meteora

    def forward(self, targets: Tensor, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The language-model loss of a batch (see `data.collate`), and 0."""
        context = self._meteora._context
        plan = context.plan([Auto(only=self.gate.names)], None)
        plan.flow = self.gate
        with context.enter(plan, "training"):
            loss = lm_loss(self._meteora.model, inputs, targets)
        return loss, loss.new_zeros(())
