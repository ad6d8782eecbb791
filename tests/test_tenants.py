"""Errors and traces tell a tenant of no adapter that its routes can't reach; who has no block may have none at all."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import meteora_rs
import pytest
import tiny_numbers
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix
from meteora_rs.errors import AdapterNotFoundError, MeteoraError, RouteError
from meteora_rs.texts.loss import token_losses
from tiny import adapter, equal, logits, prompt
from tiny_numbers import POOLS, Numbers, attached, drawn, texts
from transformers import PreTrainedModel

CALLS: dict[str, Callable[[Any], object]] = {
    "forward": lambda model: logits(model, prompt()),
    "generate": lambda model: model.generate(prompt(), max_new_tokens=1),
    "decoder": lambda model: model.model(prompt()),
    "linear": lambda model: model.model.layers[0].mlp.up_proj(torch.randn(2, 64)),
}
"""The model and parts of it."""


def told(meteora: Meteora, route: Any) -> str:
    with pytest.raises(MeteoraError) as caught, meteora.routing(route):
        pytest.fail("it was found")
    return str(caught.value)


def of_route(name: str, known: str) -> str:
    return f'no adapter named "{name}"; of the names in this route, loaded: {known}; registered_adapters() has all'


def test_outside_of_any_block_all_names_are_listed(loaded: Meteora) -> None:
    assert told(loaded, "mth") == 'no adapter named "mth"; loaded: law, math, sql'


@pytest.mark.parametrize("route", [Auto(only=["math", "mine"]), Mix({"math": 1.0, "mine": 0.5})])
def test_a_list_is_told_of_its_own_only(loaded: Meteora, route: Any) -> None:
    assert told(loaded, route) == of_route("mine", "math")


@pytest.mark.parametrize("route", [Auto(only=["mth"]), Mix({"mth": 1.0})])
def test_a_list_does_not_say_that_nothing_is_loaded(loaded: Meteora, route: Any) -> None:
    assert told(loaded, route) == of_route("mth", "none")


def test_a_group_is_told_of_its_own_only(loaded: Meteora) -> None:
    loaded.set_group("tenant", ["math", "mine"])
    text = told(loaded, Auto(only="@tenant"))
    assert "mine" in text and "law" not in text and "sql" not in text


@pytest.mark.parametrize("outer", [Auto(only=["math"]), "math", Mix({"math": 1.0}), Auto(only="@tenant")])
@pytest.mark.parametrize("inner", ["mine", Auto(only=["mine"]), Mix({"mine": 1.0}), Auto(only=["math", "mine"])])
def test_inside_a_block_its_reach_is_all_that_is_told_of(loaded: Meteora, outer: Any, inner: Any) -> None:
    loaded.set_group("tenant", ["math"])
    with loaded.routing(outer):
        text = told(loaded, inner)
    plain = 'no adapter named "mine"; loaded: math'
    assert text == plain if inner == "mine" else text in (of_route("mine", "math"), of_route("mine", "none"))


@pytest.mark.parametrize("route", [Auto(only=["math"]), "math", Mix({"math": 1.0}), Auto(only="@tenant")])
def test_a_trace_lists_its_reach_only(loaded: Meteora, route: Any) -> None:
    loaded.set_group("tenant", ["math"])
    with loaded.routing(route), loaded.trace() as trace:
        logits(loaded.model, prompt())
    assert trace.adapters == list(trace.names.values()) == ["math"]
    assert set(trace.summary()) == {"math", "__base__"}


def test_the_base_knows_nobody(loaded: Meteora) -> None:
    with loaded.routing("__base__"):
        assert told(loaded, "mine") == 'no adapter named "mine"; loaded: none'
    with pytest.raises(AdapterNotFoundError, match="loaded: law, math, sql"):
        loaded.unload_adapter("mine")


@pytest.fixture
def required(model: PreTrainedModel) -> Meteora:
    """A model that answers inside blocks only, with two adapters."""
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=4, pool_rank=64, require_routing=True))
    for seed, name in enumerate(("math", "law")):
        meteora.load_adapter(adapter(model, 4, seed=seed), name)
    return meteora


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_where_blocks_are_required_none_outside_is_answered(required: Meteora, call: Callable[[Any], object]) -> None:
    model: Any = required.model
    refused: list[str] = []

    def refuse() -> None:
        with pytest.raises(RouteError, match=r"open 'with meteora.routing") as caught:
            call(model)
        refused.append(str(caught.value))

    refuse()
    with required.routing("math"):
        call(model)
        thread = threading.Thread(target=refuse)  # which copies no context
        thread.start()
        thread.join()
        required.load_adapter(adapter(model, 4, seed=9), "sql")
    refuse()
    assert len(refused) == 3
    required.detach()
    call(model)


def test_nor_is_anything_traced_there(required: Meteora) -> None:
    with pytest.raises(RouteError), required.trace():
        pass
    with required.routing(Auto(only=["math"])), required.trace() as trace:
        logits(required.model, prompt())
    assert trace.adapters == ["math"]


@pytest.mark.parametrize("route", [Auto(), "math", ["math", "law", "__base__"], Mix({"math": 0.5, "law": 1.0})])
def test_inside_a_block_all_is_as_without(required: Meteora, model: PreTrainedModel, route: Any) -> None:
    with required.routing(route):
        answer = logits(model, prompt())
    required.detach()
    free = meteora_rs.attach(model, replace(required.config, require_routing=False))
    for seed, name in enumerate(("math", "law")):
        free.load_adapter(adapter(model, 4, seed=seed), name)
    with free.routing(route):
        assert equal(logits(model, prompt()), answer)


def test_what_routes_for_itself_needs_no_block() -> None:
    meteora = attached(replace(POOLS, require_routing=True))
    options: dict[str, Any] = {"tokenizer": Numbers(), "progress": False}
    meteora.fit_gates(texts(0), **options)
    examples = drawn(random.Random(1), range(47, 50), 24)
    meteora.load_adapter(tiny_numbers.adapter(meteora), "third", gate=examples, tokenizer=Numbers())
    meteora.train_gates(texts(0), steps=1, **options)
    meteora.train_flow_gate(texts(0)["first"], steps=1, **options)
    meteora.set_flow_gate(None)
    token_losses(meteora, [([1, 2, 3], 1)], Auto())
