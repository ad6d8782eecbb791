"""Training gates from end to end, on a tiny model whose adapters' texts can be told apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs import BASE, Auto, Meteora
from meteora_rs.errors import AdapterNotFoundError, MeteoraError
from meteora_rs.gates.train import TrainReport
from meteora_rs.texts.loss import token_losses
from tiny import equal, logits
from tiny_numbers import ALPHABETS, Numbers, adapter, attached, texts
from torch import Tensor


def train(meteora: Meteora, **options: Any) -> TrainReport:
    given = {"steps": 30, "learning_rate": 2e-2, "logging_steps": 5, "top_k": 1, **options}
    return meteora.train_gates(given.pop("data", texts(0)), tokenizer=Numbers(), progress=False, **given)


def state(meteora: Meteora) -> list[Tensor]:
    """Everything that a training changes."""
    return [t.clone() for site in meteora.sites for t in (site.gate, site.gate_bias, site.table)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def recall(meteora: Meteora) -> float:
    """The share of held-out tokens, over all input groups, whose largest logit is their own class's."""
    base_slot = meteora._registry.base_slot
    assert base_slot is not None
    slots = {record.name: record.slot for record in meteora.adapters()} | {BASE: base_slot}
    live = torch.tensor([slots[name] for name in ALPHABETS])
    right: list[Tensor] = []
    for label, held_out in enumerate(texts(1, count=12).values()):
        handles = []
        for group in meteora.groups:
            site = group.leader

            def look(_: Any, inputs: tuple[Tensor], site: Any = site, label: int = label) -> None:
                g = inputs[0].reshape(-1, site.in_features) @ site.gate[live].T + site.gate_bias[live]
                right.append((g.argmax(1) == label).double())

            handles.append(meteora.model.get_submodule(site.path).register_forward_pre_hook(look))
        token_losses(meteora, [(ids, 1) for text in held_out if (ids := Numbers()(text)["input_ids"])], Auto(), top_k=1)
        for handle in handles:
            handle.remove()
    return float(torch.cat(right).mean())


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_cold_start_learns_to_route(top_k: int) -> None:
    meteora = attached()
    report = train(meteora, top_k=top_k)
    assert report.start == "cold" and report.steps == 30 and report.classes == list(ALPHABETS)
    assert report.curve[0]["gate_loss"] == pytest.approx(1.0986, abs=0.1)  # log 3, less what the first steps gained
    assert report.curve[-1]["gate_loss"] < 0.75
    assert recall(meteora) > 0.5  # chance: a third; the alphabets overlap
    assert all(record.gate == "fitted" and record.routable for record in meteora.adapters())
    assert meteora.base_is_class
    assert not any(group._unequal for group in meteora.groups)  # one evaluation still serves a group


def test_it_goes_on_from_the_rows_in_force() -> None:
    meteora = attached()
    meteora.fit_gates(texts(0), tokenizer=Numbers(), progress=False)
    fitted, kept = meteora.gate_rows(), meteora.kept_texts
    report = train(meteora, steps=1, learning_rate=1e-9)
    assert report.start == "rows"
    for name, rows in meteora.gate_rows().items():  # the base's may have moved to its other slot
        for path, (row, bias) in rows.items():
            assert torch.allclose(row, fitted[name][path][0], atol=1e-6)
            assert bias == pytest.approx(fitted[name][path][1], abs=1e-6)
    assert meteora.kept_texts is kept
    assert train(meteora, steps=1, cold=True).start == "cold"
    assert meteora.kept_texts is None


def test_the_same_seed_gives_the_same_bits() -> None:
    one, other, third = attached(), attached(), attached()
    for meteora, seed in ((one, 0), (other, 0), (third, 1)):
        train(meteora, steps=3, top_k=2, seed=seed)
    assert same(state(one), state(other))
    assert not same(state(one), state(third))


def test_computing_layers_again_changes_nothing() -> None:
    plain, again = attached(), attached()
    train(plain, steps=4, top_k=2)
    train(again, steps=4, top_k=2, gradient_checkpointing=True)
    assert same(state(plain), state(again))
    assert not any(getattr(module, "gradient_checkpointing", False) for module in again.model.modules())


def test_bf16() -> None:
    meteora = attached()
    report = train(meteora, steps=15, top_k=2, bf16=True)
    assert report.curve[-1]["gate_loss"] < report.curve[0]["gate_loss"]
    assert meteora.sites[0].gate.dtype == torch.float32


def test_the_model_is_as_it_was() -> None:
    meteora = attached()
    meteora.model.train()
    before = {name: value.clone() for name, value in meteora.model.state_dict().items()}
    train(meteora, steps=2, top_k=2)
    assert all(torch.equal(value, before[name]) for name, value in meteora.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in meteora.model.parameters())
    assert meteora.model.training


def test_requests_see_the_old_gates_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from meteora_rs.gates.train.trainer import GateTrainer

    meteora = attached()
    meteora.set_alias("zweiter", "second")
    slot = meteora.adapter("second").slot
    meteora.reload_adapter("second", adapter(meteora), gate="none")  # in training all the same
    ids = torch.tensor([[3, 20, 7, 31]])
    before, seen = logits(meteora.model, ids), []
    compute = GateTrainer.compute_loss

    def asked(self: GateTrainer, *arguments: Any, **options: Any) -> Tensor:
        seen.append(equal(logits(meteora.model, ids), before))
        return compute(self, *arguments, **options)

    monkeypatch.setattr(GateTrainer, "compute_loss", asked)
    report = train(meteora, steps=2, data={"first": ["1 2"], "zweiter": ["30 31"], "__base__": ["40 41"]})
    assert seen and all(seen) and report.classes == ["first", "second", "__base__"]
    assert not equal(logits(meteora.model, ids), before)
    assert meteora.adapter("second").slot != slot and meteora.adapter("second").routable


@pytest.mark.parametrize("after", [1, 3])
def test_ctrl_c_leaves_the_gates_as_they_were(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from meteora_rs.gates.train.trainer import GateTrainer

    meteora = attached()
    before, records = state(meteora), meteora.adapters()
    compute, calls = GateTrainer.compute_loss, 0

    def interrupted(self: GateTrainer, *arguments: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == after:
            raise KeyboardInterrupt
        return compute(self, *arguments, **options)

    monkeypatch.setattr(GateTrainer, "compute_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(meteora, top_k=2)
    assert same(state(meteora), before)
    assert [(r.gate, r.routable) for r in meteora.adapters()] == [(r.gate, r.routable) for r in records]
    assert not meteora.base_is_class and not meteora.gate_rows()


def test_a_base_that_changes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from meteora_rs.gates.train.trainer import GateTrainer

    meteora = attached()
    before = state(meteora)
    compute = GateTrainer.compute_loss

    def meddling(self: GateTrainer, *arguments: Any, **options: Any) -> Tensor:
        with torch.no_grad():
            next(meteora.model.parameters())[0, 0] += 1
        return compute(self, *arguments, **options)

    monkeypatch.setattr(GateTrainer, "compute_loss", meddling)
    with pytest.raises(MeteoraError, match=r"embed_tokens\.weight changed while gates were trained"):
        train(meteora, steps=1)
    assert same(state(meteora), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": {"first": ["1 2"]}, "base": None}, "two classes"),
        ({"base": None}, "base=None means no class"),
        ({"base": "mine"}, "'general' or None"),
        ({"steps": 0}, "steps and top_k"),
        ({"beta": 0.0, "top_k": 1}, "beta"),
        ({"beta": -1.0}, "beta"),
        ({"data": {"first": ["1 2"], "second": []}, "base": None}, "'second' has no text"),
        ({"max_steps": 3}, "max_steps is no option"),
        ({"resume_from_checkpoint": True}, "no checkpoint to resume from"),
    ],
)
def test_what_can_not_be_trained_is_refused(options: dict[str, Any], message: str) -> None:
    meteora = attached()
    before = state(meteora)
    with pytest.raises(ValueError, match=message):
        train(meteora, **options)
    assert same(state(meteora), before)


def test_a_running_request_is_not_disturbed() -> None:
    meteora = attached()
    ids = torch.tensor([[3, 20, 7, 31]])
    before = logits(meteora.model, ids)
    with meteora.routing(Auto()):
        train(meteora, steps=2)
        assert equal(logits(meteora.model, ids), before)
    assert not equal(logits(meteora.model, ids), before)
    with pytest.raises(AdapterNotFoundError):
        train(meteora, data={"first": ["1 2"], "third": ["3 4"]}, base=None)
