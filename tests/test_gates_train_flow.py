"""The layer gate, learnt from end to end on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.errors import AdapterNotFoundError, MeteoraError
from meteora_rs.gates.flow import FlowGate
from meteora_rs.gates.train import TrainReport
from meteora_rs.gates.train.trainer import GateTrainer
from meteora_rs.texts.loss import token_losses
from tiny_numbers import Numbers, attached, texts
from torch import Tensor

TEXTS = [f"{n} {n + 1} {n + 2} {n + 1} {n}" for n in range(1, 40)]


def train(meteora: Meteora, **options: Any) -> TrainReport:
    given = {"steps": 20, "learning_rate": 3e-2, "logging_steps": 5, "per_device_train_batch_size": 8, **options}
    return meteora.train_flow_gate(
        given.pop("texts", TEXTS), tokenizer=Numbers(), progress=False, gradient_accumulation_steps=1, **given
    )


def nats(meteora: Meteora) -> float:
    found = token_losses(meteora, [(Numbers()(text)["input_ids"], 4) for text in TEXTS], Auto())
    return sum(each for each, _ in found) / sum(tokens for _, tokens in found)


def parameters(meteora: Meteora) -> list[Tensor]:
    assert meteora.flow_gate is not None
    return [parameter.clone() for parameter in meteora.flow_gate.parameters()]


def test_it_says_the_task_better_than_equal_weights() -> None:
    meteora = attached()
    rows = [site.gate.clone() for site in meteora.sites]
    meteora.set_flow_gate(FlowGate.of(meteora, ["first", "second"]))
    before = nats(meteora)
    report = train(meteora, learning_rate=0.2)
    assert nats(meteora) < before - 0.01
    assert report.curve[-1]["lm_loss"] < report.curve[0]["lm_loss"]
    assert (report.classes, report.start, report.top_k) == (["first", "second"], "equal weights", 2)
    assert all(torch.equal(site.gate, row) for site, row in zip(meteora.sites, rows, strict=True))
    assert all(not parameter.requires_grad for parameter in meteora.flow_gate.parameters())  # type: ignore[union-attr]


def test_layers_computed_again_and_one_seed_give_the_same_bits() -> None:
    found = []
    for options in ({}, {"gradient_checkpointing": True}):
        meteora = attached()
        train(meteora, steps=3, **options)
        found.append(parameters(meteora))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_broken_run_leaves_the_old_gate_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = attached(), attached()
    train(whole, steps=4)
    old = FlowGate.of(broken, ["second"])
    broken.set_flow_gate(old)
    compute, calls = GateTrainer.compute_loss, 0

    def interrupted(self: GateTrainer, *arguments: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return compute(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GateTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken, steps=4, output_dir=tmp_path, save_steps=2)
    assert broken.flow_gate is old
    train(broken, steps=4, output_dir=tmp_path, save_steps=2, resume_from_checkpoint=True)
    assert all(torch.equal(a, b) for a, b in zip(parameters(broken), parameters(whole), strict=True))
    with pytest.raises(MeteoraError, match="the checkpoint has flow"):
        train(broken, steps=4, output_dir=tmp_path, adapters=["second"], resume_from_checkpoint=True)
    with pytest.raises(MeteoraError, match="the checkpoint has classes None"):
        broken.train_gates(
            texts(0), tokenizer=Numbers(), progress=False, resume_from_checkpoint=tmp_path / "checkpoint-4"
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapters": []}, "one adapter or more"),
        ({"steps": 0}, "steps"),
        ({"texts": []}, "no text"),
        ({"texts": "1 2 3"}, "list of texts"),
        ({"report_to": "all"}, "report_to is no option"),
    ],
)
def test_what_can_not_be_learnt_is_refused(options: dict[str, Any], message: str) -> None:
    meteora = attached()
    with pytest.raises(ValueError, match=message):
        train(meteora, **options)
    with pytest.raises(AdapterNotFoundError):
        train(meteora, adapters=["third"])
    assert meteora.flow_gate is None
