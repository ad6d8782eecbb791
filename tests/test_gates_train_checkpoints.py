"""Checkpoints: of the gates alone, and what goes on from one ends where an unbroken run does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from meteora_rs import Meteora
from meteora_rs.errors import MeteoraError
from meteora_rs.gates.train import TrainReport
from meteora_rs.gates.train.trainer import GateTrainer
from safetensors.torch import load_file
from tiny_numbers import Numbers, attached, texts
from torch import Tensor


def train(meteora: Meteora, folder: Path, **options: Any) -> TrainReport:
    given = {"steps": 6, "learning_rate": 2e-2, "logging_steps": 1, "save_steps": 2, "top_k": 2, **options}
    data = given.pop("data", texts(0))
    return meteora.train_gates(data, tokenizer=Numbers(), progress=False, output_dir=folder, **given)


def test_a_broken_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken, broken = attached(), attached()
    whole = train(unbroken, tmp_path / "unbroken")
    compute, calls = GateTrainer.compute_loss, 0

    def interrupted(self: GateTrainer, *arguments: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4 * 5 + 1:  # in the sixth step
            raise KeyboardInterrupt
        return compute(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GateTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken, tmp_path / "broken")
    assert not broken.gate_rows()
    report = train(broken, tmp_path / "broken", resume_from_checkpoint=True)
    assert report.steps == 6
    assert report.curve == whole.curve
    for one, other in zip(unbroken.sites, broken.sites, strict=True):
        assert torch.equal(one.gate, other.gate) and torch.equal(one.gate_bias, other.gate_bias)
    # What is finished can be had again without a step, for example where a request was in the way of the gates.
    again = attached()
    assert train(again, tmp_path / "broken", resume_from_checkpoint=True).steps == 6
    assert torch.equal(again.sites[0].gate, unbroken.sites[0].gate)


def test_a_checkpoint_holds_the_gates_alone(tmp_path: Path) -> None:
    meteora = attached()
    train(meteora, tmp_path, steps=2)
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert set(weights) == {f"{kind}.{i}" for kind in ("weights", "biases") for i in range(len(meteora.groups))}
    assert json.loads((tmp_path / "checkpoint-2" / "meteora_classes.json").read_text()) == {
        "classes": ["first", "second", "__base__"],
        "sites": [group.leader.path for group in meteora.groups],
    }


def test_a_checkpoint_of_other_classes_is_refused(tmp_path: Path) -> None:
    train(attached(), tmp_path, steps=2)
    meteora = attached()
    data = dict(reversed(texts(0).items()))
    with pytest.raises(MeteoraError, match=r"classes \['first', 'second', '__base__'\] where"):
        train(meteora, tmp_path, data=data, resume_from_checkpoint=tmp_path / "checkpoint-2")
    assert not meteora.gate_rows()
    (tmp_path / "checkpoint-2" / "meteora_classes.json").write_text("{")
    with pytest.raises(MeteoraError, match="not a checkpoint of gates"):
        train(meteora, tmp_path, resume_from_checkpoint=True)
    with pytest.raises(OSError, match="meteora_classes"):
        train(meteora, tmp_path, resume_from_checkpoint=tmp_path / "nothing")
