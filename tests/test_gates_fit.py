"""The fit from end to end: on a tiny model whose adapters' texts can be told apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError
from meteora_rs.gates.fit import FitReport, fit_gates, general_texts
from meteora_rs.gates.fit.collect import collect
from meteora_rs.gates.flow import FlowGate
from tiny_numbers import ALPHABETS, VOCABULARY, Numbers, attached, texts
from torch import Tensor


def fit(meteora: Meteora, **options: Any) -> FitReport:
    return fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False, batch_tokens=200, **options)


def gates_close(one: Meteora, other: Meteora) -> None:
    for name, rows in one.gate_rows().items():
        for path, (row, bias) in rows.items():
            other_row, other_bias = other.gate_rows()[name][path]
            assert torch.allclose(row, other_row, atol=1e-2 * row.abs().max().item())
            assert bias == pytest.approx(other_bias, rel=1e-2, abs=1e-2)


def state(meteora: Meteora) -> list[Tensor]:
    """Everything that a fit changes: what is in the slots in use."""
    slots = [record.slot for record in meteora.adapters()]
    if meteora._registry.base_slot is not None:
        slots.append(meteora._registry.base_slot)
    return [t[slots] for site in meteora.sites for t in (site.gate, site.gate_bias, site.table)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_routes_held_out_tokens_to_their_own_class() -> None:
    meteora = attached()
    report = fit(meteora)
    for name, prior in report.priors.items():  # which follow a random model's loss, not the classes
        rows = meteora.gate_rows()[name]
        meteora.set_gates(
            {name: {path: (row, bias - prior / report.temperature) for path, (row, bias) in rows.items()}}
        )
    slots = {record.name: record.slot for record in meteora.adapters()}
    slots["__base__"] = meteora._registry.base_slot
    chosen: list[Tensor] = []
    for group in meteora.groups:
        site = group.leader

        def look(_: Any, inputs: tuple[Tensor], site: Any = site) -> None:
            live = torch.tensor(sorted(slots.values()))
            g = inputs[0].reshape(-1, site.in_features) @ site.gate[live].T + site.gate_bias[live]
            chosen.append(live[g.argmax(1)])

        meteora.model.get_submodule(site.path).register_forward_pre_hook(look)
    shares = {}
    for name, held_out in texts(1, count=12).items():
        chosen.clear()
        for text in held_out:
            with torch.no_grad(), meteora.routing(Auto()):
                meteora.model(input_ids=torch.tensor([Numbers()(text)["input_ids"]]))
        shares[name] = (torch.cat(chosen) == slots[name]).double().mean().item()
    assert min(shares.values()) > 0.6, shares  # chance: a third
    assert report.texts == dict.fromkeys(ALPHABETS, 24)
    assert set(report.passes[-1].accuracy) == {"q_proj", "o_proj", "gate_proj", "down_proj"}
    assert min(report.passes[-1].accuracy.values()) > 0.5
    assert "first (24 texts" in str(report)
    assert all(record.gate == "fitted" and record.routable for record in meteora.adapters())


def test_the_same_data_gives_the_same_bits() -> None:
    one, other = attached(), attached()
    fit(one)
    fit(other)
    assert same(state(one), state(other))


def test_the_second_pass_sees_other_activations() -> None:
    one, two = attached(), attached()
    fit(one, passes=1)
    fit(two, passes=2)
    assert not same(state(one), state(two))


def test_pads_do_not_count() -> None:
    alone, padded = attached(), attached()
    options: dict[str, Any] = {"tokenizer": Numbers(), "progress": False, "passes": 1, "shrinkage": 0.01}
    fit_gates(alone, texts(0), batch_tokens=20, temperature=1.0, **options)
    fit_gates(padded, texts(0), batch_tokens=4000, temperature=1.0, **options)
    gates_close(alone, padded)


def test_several_sweeps_give_the_gates_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, several = attached(), attached()
    fit(one)
    calls: list[int] = []

    def counted(model: Any, groups: Any, *rest: Any) -> None:
        calls.append(len(groups))
        collect(model, groups, *rest)

    monkeypatch.setattr("meteora_rs.gates.fit.sweeps.collect", counted)
    report = fit(several, memory_budget=20_000)
    assert len(calls) > 4 and max(calls) < len(several.groups)
    assert sum(calls) == 2 * len(several.groups)
    assert same(state(one), state(several))
    assert report.confusion


def test_refined_gates_are_tried_beside_the_closed_form_and_need_no_more_memory() -> None:
    one, other = attached(), attached()
    report = fit(one, refine=True)
    assert report.refinement.keys() == {"closed form", "refined"}
    assert "closed form" in str(report) and fit(attached()).refinement == {}
    fit(other, refine=True, memory_budget=1)
    gates_close(one, other)


def test_a_budget_for_nothing_still_takes_one_group_at_a_time() -> None:
    one, several = attached(), attached()
    fit(one, passes=1)
    fit(several, passes=1, memory_budget=1)
    assert same(state(one), state(several))


def test_mixing_two_is_never_worse_than_one_on_held_out_texts() -> None:
    meteora = attached()
    report = fit(meteora)
    assert {"top_k=1", "0.25"} <= set(report.losses)
    best = min(report.losses.values())
    assert report.losses.get(f"{report.temperature:g}", report.losses["top_k=1"]) == best


def test_a_temperature_is_in_the_gates_and_changes_no_choice() -> None:
    one, sharp = attached(), attached()
    fit(one, temperature=1.0)
    report = fit(sharp, temperature=0.25)
    assert (report.temperature, report.losses) == (0.25, {})
    for name, rows in one.gate_rows().items():
        for path, (row, bias) in rows.items():
            assert torch.equal(4 * row, sharp.gate_rows()[name][path][0])
            assert 4 * bias == sharp.gate_rows()[name][path][1]


def test_without_base_none_is_left_in_force() -> None:
    meteora = attached()
    fit(meteora)
    assert "__base__" in meteora.gate_rows()
    data = texts(0)
    del data["__base__"]
    fit_gates(meteora, data, tokenizer=Numbers(), progress=False, base=None)
    assert set(meteora.gate_rows()) == {"first", "second"}
    with meteora.trace() as trace, meteora.routing(Auto()), torch.no_grad():
        meteora.model(input_ids=torch.tensor([[31, 40, 41, 45]]))
    assert sum(each.share for each in trace.summary().values()) == pytest.approx(1, abs=1e-5)


def test_a_failed_fit_without_base_brings_the_base_back() -> None:
    meteora = attached()
    fit(meteora)
    before = state(meteora)
    data = texts(0)
    del data["__base__"]
    with pytest.raises(ValueError, match="invalid literal"):
        fit_gates(meteora, {**data, "first": ["x y"]}, tokenizer=Numbers(), progress=False, base=None)
    assert same(state(meteora), before)
    assert "__base__" in meteora.gate_rows()


def test_general_text_is_the_base_by_default() -> None:
    class Words:
        eos_token_id = None

        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
            return {"input_ids": [1 + sum(map(ord, word)) % (VOCABULARY - 1) for word in text.split()]}

    meteora = attached()
    report = fit_gates(meteora, {"first": ["a b c d", "d c b a"] * 8}, tokenizer=Words(), progress=False)
    assert report.classes == ["first", "__base__"]
    assert report.texts["__base__"] == len(general_texts())
    assert "__base__" in meteora.gate_rows()


@pytest.mark.parametrize("after", [1, 3, 5])
def test_ctrl_c_leaves_the_gates_as_they_were(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meteora = attached()
    before, records = state(meteora), meteora.adapters()
    calls = 0

    def interrupted(model: Any, groups: Any, batches: Any, routing: Any, _: Any) -> None:
        def done(_: int) -> None:
            nonlocal calls
            calls += 1
            if calls == after:
                raise KeyboardInterrupt

        collect(model, groups, batches, routing, done)

    monkeypatch.setattr("meteora_rs.gates.fit.sweeps.collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False, batch_tokens=300)
    assert calls == after
    assert same(state(meteora), before)
    assert [(r.gate, r.routable) for r in meteora.adapters()] == [(r.gate, r.routable) for r in records]
    assert not meteora.gate_rows()
    monkeypatch.undo()
    fit(meteora)


def test_gates_outside_the_fit_stay() -> None:
    meteora = attached()
    slot = meteora.adapter("second").slot
    before = [site.gate[slot].clone() for site in meteora.sites]
    data = texts(0)
    del data["second"]
    fit_gates(meteora, data, tokenizer=Numbers(), progress=False)
    assert same([site.gate[slot] for site in meteora.sites], before)
    assert meteora.adapter("second").gate == "arrow"


def test_training_mode_comes_back() -> None:
    meteora = attached()
    meteora.model.train()
    fit(meteora, passes=1)
    assert meteora.model.training


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"first": ["1 2"]}, {}, "two classes"),
        ({"first": ["1 2"], "__base__": ["3 4"]}, {}, "base=None means no class"),
        ({"first": ["1 2"], "second": ["3 4"]}, {"base": "mine"}, "'general' or None"),
        ({"first": ["1 2"], "second": ["3 4"]}, {"memory_budget": 0}, "memory_budget"),
        ({"first": ["1 2"], "second": ["3 4"]}, {"temperature": 0.0}, "temperature"),
        ({"first": ["1 2"], "second": ["3 4"]}, {"passes": 0}, "passes"),
        ({"first": ["1 2"], "second": ["3 4"]}, {"shrinkage": 0.0}, "shrinkage"),
        ({"first": ["1 2"], "second": []}, {}, "'second' has no text"),
        ({"first": ["1 2"], "second": ["3 4"]}, {"tokenizer": None}, "give tokenizer="),
    ],
)
def test_what_cannot_be_fitted_is_refused(data: dict[str, Any], options: dict[str, Any], message: str) -> None:
    meteora = attached()
    before = state(meteora)
    with pytest.raises(ValueError, match=message):
        fit_gates(meteora, data, **{"tokenizer": Numbers(), "progress": False, "base": None, **options})
    assert same(state(meteora), before)


def test_a_running_request_is_not_disturbed() -> None:
    meteora = attached()
    before = state(meteora)
    with meteora.routing("first"), pytest.raises(AdapterInUseError, match="fit on a copy of the model"):
        fit(meteora)
    assert same(state(meteora), before)


def test_beside_requests_a_copy_is_fitted() -> None:
    copy, meteora = attached(), attached()
    fit(copy, passes=1)
    with meteora.routing(Auto(only=["first", "second"])):
        meteora.set_gates(copy.gate_rows())
    assert [record.gate for record in meteora.adapters()] == ["fitted", "fitted"] and meteora.base_is_class
    gates_close(meteora, copy)


def test_of_two_fits_one_is_refused() -> None:
    meteora = attached()
    with meteora._fitting, pytest.raises(AdapterInUseError, match="another fit_gates"):
        meteora.fit_gates(texts(0), tokenizer=Numbers())
    with pytest.raises(AdapterNotFoundError):  # and it says so when it has failed
        meteora.fit_gates({**texts(0), "third": ["3 4"]}, tokenizer=Numbers())
    assert not meteora._fitting.locked()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AdapterNotFoundError):
        fit_gates(attached(), {"first": ["1 2"], "third": ["3 4"]}, tokenizer=Numbers())


def test_a_flow_gate_stands_aside() -> None:
    """What is fitted is met by those who have none."""
    plain, meteora = attached(), attached()
    gate = FlowGate.of(meteora, ["first", "second"])
    meteora.set_flow_gate(gate)
    for each in (plain, meteora):
        each.fit_gates(texts(0), tokenizer=Numbers(), progress=False, batch_tokens=200)
    assert meteora.flow_gate is gate
    gates_close(plain, meteora)
    with pytest.raises(ValueError, match="two classes"):
        meteora.fit_gates({"first": texts(0)["first"]}, tokenizer=Numbers(), base=None)
    assert meteora.flow_gate is gate
    meteora.train_gates(texts(0), tokenizer=Numbers(), steps=1, progress=False)
    assert meteora.flow_gate is gate
