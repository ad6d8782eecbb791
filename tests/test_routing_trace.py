"""What a trace records, and that recording changes no bit."""

from __future__ import annotations

from pathlib import Path

import meteora_rs
import numpy as np
import pytest
import torch
from meteora_rs import Auto, Meteora, Mix
from meteora_rs.ops.reference import logits as gate_logits
from tiny import SIZES, adapter, equal, logits, prompt
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel, Qwen2MoeConfig, Qwen2MoeForCausalLM


def test_a_record_for_each_linear_of_each_pass(loaded: Meteora) -> None:
    ids = prompt(3, 7)
    with loaded.trace() as trace:
        logits(loaded.model, ids)
        logits(loaded.model, ids[:, :2])
    assert trace.sites == [site.path for site in loaded.sites]
    assert [(r.step, r.site) for r in trace.records] == [(s, i) for s in (0, 1) for i in range(14)]
    for record in trace.records:
        tokens = 7 if record.step == 0 else 2
        assert record.slots.shape == record.weights.shape == (3, tokens, 2)
        assert record.slots.dtype == np.int32 and record.weights.dtype == np.float32
        assert (np.diff(record.slots, axis=-1) > 0).all(), "slots ascend"
        assert np.allclose(record.weights.sum(-1), 1, atol=1e-6)
    assert trace.adapters == ["math", "law", "sql"]
    assert trace.token_weights(1).shape == (9, 14, 3)
    assert np.allclose(trace.token_weights(1).sum(-1), 1, atol=1e-6)


def test_weights_are_those_of_the_gates(loaded: Meteora) -> None:
    seen = {}

    def see(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen["x"] = inputs[0][1, 4:5].double()

    site = loaded.sites[8]
    handle = loaded.model.get_submodule(site.path).register_forward_pre_hook(see)
    with loaded.trace() as trace:
        logits(loaded.model, prompt())
    handle.remove()
    g = gate_logits(seen["x"], site.gate, site.gate_bias, site.table)[0, :3]
    best = g.topk(2)
    expected = np.zeros(3)
    expected[best.indices.numpy()] = best.values.softmax(0).numpy()
    assert np.allclose(trace.token_weights(1)[4, 8], expected, atol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_tracing_changes_no_bit(loaded: Meteora, grad: bool) -> None:
    ids = prompt(4)
    routes = [Auto(), "math", Mix({"law": 0.5, "sql": 2.0}), "__base__"]
    with loaded.routing(routes), torch.set_grad_enabled(grad):
        before = loaded.model(ids).logits
        with loaded.trace() as trace:
            during = loaded.model(ids).logits
        assert equal(loaded.model(ids).logits, before) and equal(during, before)
    assert len(trace.records) == 14


def test_each_row_by_its_route(loaded: Meteora) -> None:
    routes = [Auto(only=["law", "sql"]), "math", Mix({"law": 0.5, "sql": 2.0}), "__base__", Auto()]
    with loaded.trace() as trace, loaded.routing(routes):
        logits(loaded.model, prompt(5))
    weights = [trace.token_weights(row) for row in range(5)]
    assert (weights[0][..., 0] == 0).all() and np.allclose(weights[0].sum(-1), 1)
    assert (weights[1] == [1, 0, 0]).all()
    assert (weights[2] == [0, 0.5, 2.0]).all()
    assert (weights[3] == 0).all()
    assert trace.leaders(1) == ["math"] * 7
    assert trace.leaders(3) == ["__base__"] * 7
    summary = trace.summary()
    assert sum(each.tokens for each in summary.values()) == 35
    assert next(iter(summary)) == max(summary, key=lambda name: summary[name].share)


def test_passes_that_use_no_adapter_are_seen(meteora: Meteora, model: PreTrainedModel) -> None:
    with meteora.trace() as trace:
        logits(model, prompt(2, 5))
    assert trace.adapters == []
    assert trace.token_weights().shape == (5, 14, 0)
    assert trace.leaders() == ["__base__"] * 5
    meteora.load_adapter(adapter(model), "math")
    with meteora.trace() as trace:
        with meteora.routing("__base__"):
            logits(model, prompt(2, 5))
        with meteora.routing("math"):
            logits(model, prompt(2, 3))
    assert trace.leaders(1) == ["__base__"] * 5 + ["math"] * 3
    assert trace.summary()["math"].share == pytest.approx(3 / 8)


def test_generated_tokens_follow_the_prompt(loaded: Meteora) -> None:
    with loaded.trace() as trace, loaded.routing(["math", Auto()]):
        loaded.model.generate(prompt(2, 5), max_new_tokens=4, do_sample=False)
    assert trace.token_weights(0).shape == (8, 14, 3)
    assert trace.leaders(0) == ["math"] * 8
    with pytest.raises(IndexError):
        trace.token_weights(2)


def test_what_runs_outside_is_not_recorded(loaded: Meteora) -> None:
    with loaded.trace() as trace:
        pass
    logits(loaded.model, prompt())
    assert trace.records == [] and trace.summary() == {} and trace.leaders() == []
    with loaded.trace() as outer, loaded.trace() as inner:
        logits(loaded.model, prompt())
    assert len(inner.records) == 14 and outer.records == []


def test_names_of_the_snapshot(loaded: Meteora, model: PreTrainedModel) -> None:
    with loaded.trace() as trace:
        loaded.unload_adapter("math")
        loaded.load_adapter(adapter(model, seed=8), "new")
        logits(model, prompt())
    assert trace.adapters == ["math", "law", "sql"]


def test_places_without_a_candidate_are_empty(loaded: Meteora) -> None:
    with loaded.trace() as trace, loaded.routing(Auto(only=["law"])):
        logits(loaded.model, prompt())
    for record in trace.records:
        assert (record.slots == [1, -1]).all() and (record.weights == [1, 0]).all()


@pytest.mark.parametrize("tokens", [None, ["a", "$\\frac$", "$_", "\n", "é", "<s>", "^$ b"]])
def test_a_plot_is_a_picture(loaded: Meteora, tmp_path: Path, tokens: list[str] | None) -> None:
    pytest.importorskip("matplotlib")
    with loaded.trace() as trace:
        logits(loaded.model, prompt(2, 7))
    trace.plot(tmp_path / "trace.png", row=1, tokens=tokens)
    assert (tmp_path / "trace.png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter_whose_slot_changes_is_one_adapter(loaded: Meteora) -> None:
    """Also where another one takes the slot that it had."""
    with loaded.routing("law"), loaded.trace() as trace:  # holds law alone: the slots of the others are reused
        for change in (
            lambda: None,
            lambda: loaded.reload_adapter("math", adapter(loaded.model, 4, seed=9)),
            lambda: loaded.load_adapter(adapter(loaded.model, 4, seed=10), "new"),
        ):
            change()
            with loaded.routing(["math", "law"]):
                logits(loaded.model, prompt(2, 3))
        with loaded.routing(["new", "law"]):
            logits(loaded.model, prompt(2, 3))
    assert sorted(trace.adapters) == ["law", "math", "new"]
    assert trace.leaders(0) == ["math"] * 9 + ["new"] * 3
    assert trace.leaders(1) == ["law"] * 12
    assert trace.summary()["math"].tokens == 9


@pytest.mark.parametrize("kind", ["qwen2_moe", "opt"])
def test_linears_that_see_tokens_without_rows(kind: str) -> None:
    """A shared expert's, OPT's fc1: the rows are those of the model's other linears."""
    model: PreTrainedModel
    if kind == "opt":
        heads = {"ffn_dim": 48, "word_embed_proj_dim": 64}
        model = OPTForCausalLM(OPTConfig(**{**SIZES, **heads})).eval()
    else:
        experts = {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, "num_experts": 4}
        model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**{**SIZES, **experts}, num_experts_per_tok=2)).eval()
    meteora = meteora_rs.attach(model)
    names = tuple({site.path.rpartition(".")[2] for site in meteora.sites})
    meteora.load_adapter(adapter(model, 4, targets=names), "math")
    with meteora.trace() as trace, meteora.routing(["math", "__base__", Auto()]):
        logits(model, prompt(3, 7))
        logits(model, prompt(3, 1))
    assert {record.slots.shape[0] for record in trace.records} == {3}
    assert [trace.leaders(row) for row in range(3)] == [["math"] * 8, ["__base__"] * 8, ["math"] * 8]
    assert trace.summary()["math"].tokens == 16
