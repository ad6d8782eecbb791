"""The fit from end to end: on a tiny model whose adapters' texts can be told apart."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError
from meteora_rs.gates.fit import FitReport, fit_gates
from meteora_rs.gates.fit.collect import collect
from torch import Tensor

HIDDEN, VOCABULARY = 32, 50
ALPHABETS = {"first": range(0, 18), "second": range(15, 33), "__base__": range(30, 48)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small gains nothing from threads, and waits for them where cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Numbers:
    """A tokenizer of numbers between spaces."""

    eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
        return {"input_ids": [int(word) for word in text.split()]}


def attached() -> Meteora:
    """A tiny random Llama with two random adapters; the same each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    meteora = meteora_rs.attach(LlamaForCausalLM(config), MeteoraConfig(max_adapters=4, pool_rank=32))
    for name in ("first", "second"):
        tensors = {}
        for site in meteora.sites:
            prefix = f"base_model.model.{site.path}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, site.in_features) / 8
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(site.out_features, 4) / 8
        modules = sorted({site.path.rpartition(".")[2] for site in meteora.sites})
        adapter = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": modules}
        meteora.load_adapter({"config": adapter, "tensors": tensors}, adapter_name=name)
    return meteora


def texts(seed: int, count: int = 24) -> dict[str, list[str]]:
    """Numbers drawn from the alphabet of each class; alphabets overlap."""
    draw = random.Random(seed)
    return {
        name: [" ".join(str(draw.choice(alphabet)) for _ in range(draw.randint(6, 20))) for _ in range(count)]
        for name, alphabet in ALPHABETS.items()
    }


def fit(meteora: Meteora, **options: Any) -> FitReport:
    return fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False, batch_tokens=200, **options)


def state(meteora: Meteora) -> list[Tensor]:
    """Everything that a fit changes."""
    return [t.clone() for site in meteora.sites for t in (site.gate, site.gate_bias, site.table)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_routes_held_out_tokens_to_their_own_class() -> None:
    meteora = attached()
    report = fit(meteora)
    slots = {record.name: record.slot for record in meteora.adapters()}
    slots["__base__"] = meteora.config.max_adapters
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
    fit_gates(alone, texts(0), tokenizer=Numbers(), progress=False, batch_tokens=20, passes=1)
    fit_gates(padded, texts(0), tokenizer=Numbers(), progress=False, batch_tokens=4000, passes=1)
    for name, rows in alone.gate_rows().items():
        for path, (row, bias) in rows.items():
            other_row, other_bias = padded.gate_rows()[name][path]
            assert torch.allclose(row, other_row, atol=1e-2 * row.abs().max().item())
            assert bias == pytest.approx(other_bias, rel=1e-2, abs=1e-2)


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

    monkeypatch.setattr("meteora_rs.gates.fit.fit.collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False, batch_tokens=600)
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
        fit_gates(meteora, data, **{"tokenizer": Numbers(), "progress": False, **options})
    assert same(state(meteora), before)


def test_a_running_request_is_not_disturbed() -> None:
    meteora = attached()
    before = state(meteora)
    with meteora.routing("first"), pytest.raises(AdapterInUseError):
        fit(meteora)
    assert same(state(meteora), before)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AdapterNotFoundError):
        fit_gates(attached(), {"first": ["1 2"], "third": ["3 4"]}, tokenizer=Numbers())
