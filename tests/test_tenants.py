"""Errors and traces tell a tenant of no adapter that its routes can't reach."""

from __future__ import annotations

from typing import Any

import pytest
from meteora_rs import Auto, Meteora, Mix
from meteora_rs.errors import AdapterNotFoundError, MeteoraError
from tiny import logits, prompt


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
