"""Gradients with checkpointing are those without, wherever the backward pass runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig
from meteora_rs.attached.checkpoint import FUNCTION
from tiny import adapter, equal, prompt, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

ROUTES = ["math", Auto(only=["law", "sql"]), "__base__"]


@pytest.fixture
def trained(loaded: Meteora) -> Meteora:
    """`loaded`, in training mode, with nothing random."""
    loaded.model.train()
    return loaded


def gradients(meteora: Meteora, before_backward: Callable[[], object] = lambda: None) -> list[Tensor]:
    """Of the embedded prompt and the weights, the backward pass outside of the block."""
    model: PreTrainedModel = meteora.model  # type: ignore[assignment]
    embedded = model.get_input_embeddings()(prompt()).detach().requires_grad_()
    with meteora.routing(ROUTES):
        loss = model(inputs_embeds=embedded, use_cache=False).logits.square().sum()
    before_backward()
    weights = [p for p in model.model.layers.parameters() if p.requires_grad]
    loss.backward()
    found = [embedded.grad, *(p.grad for p in weights)]
    model.zero_grad()
    assert all(each is not None for each in found)
    return [each.clone() for each in found if each is not None]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_follows_the_routes_of_the_forward_pass(trained: Meteora, reentrant: bool) -> None:
    expected = gradients(trained)
    trained.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert same(gradients(trained), expected)
    model = trained.model
    assert same(gradients(trained, lambda: trained.unload_adapter("math")), expected)
    trained.load_adapter(adapter(model, 4, seed=1), "math")

    def replace() -> None:
        trained.unload_adapter("math")
        trained.load_adapter(adapter(model, 8, seed=11), "new", gate="none")

    assert same(gradients(trained, replace), expected)
    assert trained.stats().slots.held == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_backward_pass_in_another_thread(trained: Meteora, reentrant: bool) -> None:
    expected = gradients(trained)
    trained.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    found: list[Tensor] = []
    embedded = trained.model.get_input_embeddings()(prompt()).detach().requires_grad_()
    with trained.routing(ROUTES):
        loss = trained.model(inputs_embeds=embedded, use_cache=False).logits.square().sum()

    def run() -> None:
        loss.backward()
        assert embedded.grad is not None
        found.append(embedded.grad)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert equal(found[0], expected[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_graph_is_held_until_it_is_gone(model: PreTrainedModel, reentrant: bool) -> None:
    meteora = meteora_rs.attach(model.train(), MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 8), "math")
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with meteora.routing("math"):
        loss = model(prompt(), use_cache=False).logits.sum()
    with pytest.raises(meteora_rs.errors.CapacityError, match="until running requests end"):
        meteora.reload_adapter("math", adapter(model, 8, seed=1))
    loss.backward()
    del loss
    meteora.reload_adapter("math", adapter(model, 8, seed=1))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_trace_has_each_pass_once(trained: Meteora, reentrant: bool) -> None:
    trained.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with trained.trace() as trace:
        gradients(trained)
    assert len(trace.records) == 14


def test_detach_gives_the_checkpointing_function_back() -> None:
    model = tiny_model().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = list(model.model.layers)
    before = [layer.__dict__[FUNCTION] for layer in layers]
    meteora = meteora_rs.attach(model)
    meteora.load_adapter(adapter(model), "math")
    with meteora.routing("math"):
        model(prompt(), use_cache=False)
    assert all(layer.__dict__[FUNCTION] is not each for layer, each in zip(layers, before, strict=True))
    meteora.detach()
    assert all(layer.__dict__[FUNCTION] is each for layer, each in zip(layers, before, strict=True))
    model(prompt(), use_cache=False).logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.model.layers.parameters() if p.grad is not None)
