"""The handle: gates are replaced whole, requests of any entrance are whole, and gradients keep their adapters."""

from __future__ import annotations

import contextvars
import threading
from contextlib import nullcontext, suppress
from unittest.mock import patch

import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, attach
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, AdapterNotFoundError, CapacityError
from meteora_rs.gate_kinds import TensorGate
from tiny import adapter, equal, gate_rows, logits, prompt
from transformers import PreTrainedModel


def test_gates_of_no_known_kind_change_nothing(loaded: Meteora) -> None:
    before = logits(loaded.model, prompt())
    with pytest.raises(ValueError, match="kind"):
        loaded.set_gates({"math": gate_rows(loaded, 5)}, kind="arrow")
    assert equal(logits(loaded.model, prompt()), before)


def test_the_base_is_a_class_until_its_row_is_taken_away(loaded: Meteora) -> None:
    before = logits(loaded.model, prompt())
    bare = {path: (torch.zeros_like(row), 1e6) for path, (row, _) in gate_rows(loaded, 5).items()}
    loaded.set_gates({"__base__": bare})
    assert loaded.base_is_class
    with loaded.routing("__base__"):
        base = logits(loaded.model, prompt())
    with loaded.routing(Auto(), top_k=1):
        assert equal(logits(loaded.model, prompt()), base)
    loaded.set_gates({"__base__": None})
    assert not loaded.base_is_class
    assert equal(logits(loaded.model, prompt()), before)
    with pytest.raises(AdapterFormatError, match="'math'"):
        loaded.set_gates({"math": None})


def test_a_request_may_have_its_own_top_k_and_temperature(model: PreTrainedModel) -> None:
    outputs = []
    for config in (MeteoraConfig(top_k=1), MeteoraConfig(top_k=2, temperature=3.0)):
        meteora = attach(model, config)
        for seed, name in enumerate(("a", "b")):
            meteora.load_adapter(adapter(model, 8, seed=seed), name)
        with meteora.routing(Auto(), top_k=2, temperature=3.0):
            outputs.append(logits(model, prompt()))
        with pytest.raises(ValueError, match="top_k"), meteora.routing(Auto(), top_k=0):
            pass
        meteora.detach()
    assert equal(*outputs)


def test_a_forward_never_sees_half_of_a_change_of_gates(loaded: Meteora) -> None:
    states = [{"math": gate_rows(loaded, seed), "law": gate_rows(loaded, seed + 1)} for seed in (3, 5)]
    expected = []
    for state in states:
        loaded.set_gates(state)
        expected.append(logits(loaded.model, prompt()))
    stop = threading.Event()
    torn = []

    def run() -> None:
        while not stop.is_set():
            found = logits(loaded.model, prompt())
            if not any(equal(found, each) for each in expected):
                torn.append(found)

    thread = threading.Thread(target=run)
    thread.start()
    for turn in range(60):
        try:
            loaded.set_gates(states[turn % 2])
        except AdapterInUseError:
            continue
    stop.set()
    thread.join()
    assert not torn


def test_the_inner_model_holds_its_adapters_too(model: PreTrainedModel) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 8, seed=0), "a")
    refused = []

    def reload(*_: object) -> None:
        with pytest.raises(CapacityError) as error:
            meteora.reload_adapter("a", adapter(model, 8, seed=1))
        refused.append(error)

    handle = model.model.layers[1].register_forward_pre_hook(reload)
    with torch.no_grad():
        model.model(prompt())
    handle.remove()
    assert refused


def test_a_graph_keeps_the_rows_that_its_backward_reads(loaded: Meteora, model: PreTrainedModel) -> None:
    embedded = model.get_input_embeddings()(prompt()).detach().requires_grad_()

    def gradient(between: bool) -> torch.Tensor:
        with loaded.routing("math"):
            loss = model(inputs_embeds=embedded).logits.square().sum()
        if between:
            loaded.unload_adapter("math")
            loaded.load_adapter(adapter(model, 8, seed=11), "new", gate="none")
        return torch.autograd.grad(loss, embedded)[0]

    assert equal(gradient(False), gradient(True))


@pytest.mark.parametrize("texts", ["one string", [None], [("a", "b", "c")]])
def test_a_fit_takes_lists_of_texts_or_pairs(loaded: Meteora, texts: object) -> None:
    with pytest.raises(ValueError, match="a list of texts"):
        loaded.fit_gates({"math": texts, "law": ["some text"]}, tokenizer=object())


def test_a_trace_of_batches_of_different_sizes(loaded: Meteora) -> None:
    with loaded.trace() as trace:
        logits(loaded.model, prompt(1, 4))
        logits(loaded.model, prompt(3, 5))
    assert trace.token_weights(0).shape[0] == 9
    assert trace.token_weights(2).shape[0] == 5
    assert sum(each.tokens for each in trace.summary().values()) == 4 + 15
    with pytest.raises(IndexError, match="row 3"):
        trace.token_weights(3)


class Stop(Exception):
    pass


@pytest.mark.parametrize("traced", [False, True])
def test_an_exception_that_is_kept_keeps_no_adapter(model: PreTrainedModel, traced: bool) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 8, seed=0), "a")

    def stop(*_: object) -> None:
        raise Stop

    handle = model.model.layers[1].register_forward_pre_hook(stop)
    kept: list[Exception] = []
    for route in ("a", Auto()):
        try:
            with meteora.routing(route), meteora.trace() if traced else nullcontext(), torch.no_grad():
                model(prompt())
        except Stop as error:
            kept.append(error)
    handle.remove()
    assert len(kept) == 2
    assert meteora.stats().held == ()
    meteora.reload_adapter("a", adapter(model, 8, seed=1))
    meteora.set_gates({"a": gate_rows(meteora, 1)})


def test_a_task_that_outlives_its_block_keeps_its_adapters(loaded: Meteora, model: PreTrainedModel) -> None:
    with loaded.routing("math"):
        expected = logits(model, prompt())
        context = contextvars.copy_context()
    loaded.unload_adapter("math")
    loaded.load_adapter(adapter(model, 8, seed=11), "new", gate="none")
    assert equal(context.run(logits, model, prompt()), expected)
    del context
    assert loaded.stats().slots.held == 0


def test_a_request_for_an_adapter_that_is_reloaded_in_place(model: PreTrainedModel) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    old = meteora.load_adapter(adapter(model, 8, seed=0), "a")
    seen = []

    class Watched(TensorGate):
        def write(self, slot: int, *, like: int | None = None, clear: bool = False) -> None:
            super().write(slot, like=like, clear=clear)
            for route in ("a", Auto(only=["a"]), Mix({"a": 1.0})):
                with pytest.raises(AdapterInUseError, match="being reloaded"), meteora.routing(route):
                    pass
            seen.extend([meteora.adapter("a"), *meteora.adapters()])

    with patch("meteora_rs.gate_kinds.TensorGate", Watched):
        new = meteora.reload_adapter("a", adapter(model, 8, seed=1), gate=gate_rows(meteora, 1))
    assert seen == [old, old]
    assert meteora.adapter("a") == new != old


def test_one_adapter_is_looked_up_in_one_step(loaded: Meteora) -> None:
    assert [loaded.adapter(name) for name in ("math", "law", "sql")] == loaded.adapters()
    stop = threading.Event()

    def change() -> None:
        source = adapter(loaded.model, 4, seed=1)
        while not stop.is_set():
            loaded.unload_adapter("math")
            loaded.load_adapter(source, "math", gate="none")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(3000):
            with suppress(AdapterNotFoundError):
                assert loaded.adapter("math").name == "math"
    finally:
        stop.set()
        thread.join()
