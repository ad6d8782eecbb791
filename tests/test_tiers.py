"""More adapters than the pools hold: registered, brought in when a request names them, evicted for others."""

from __future__ import annotations

from typing import Any

import meteora_rs
import pytest
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix
from meteora_rs.errors import (
    AdapterInUseError,
    AdapterNotFoundError,
    CapacityError,
    MeteoraError,
    RouteError,
)
from tiers_case import IDS, NAMES, alone, by, live
from tiny import adapter, equal, logits
from transformers import PreTrainedModel


def test_registered_adapters_rest_and_come_when_they_are_named(tiered: Meteora) -> None:
    assert live(tiered) == set()
    assert [(r.name, r.tier, r.slot) for r in tiered.registered_adapters()] == [(n, "host", -1) for n in NAMES]
    for name in [*NAMES, *reversed(NAMES)]:
        assert equal(by(tiered, name), alone(name))
    assert live(tiered) == {"a", "b"}
    tiers = {record.name: record.tier for record in tiered.registered_adapters()}
    assert tiers == {"a": "device", "b": "device", "c": "host", "d": "host", "e": "host"}


@pytest.mark.parametrize("route", [Mix({"b": 0.5, "d": 2.0}), Auto(only=["c", "e"]), ["a", "e", "__base__"]])
def test_all_of_a_request_come_together(tiered: Meteora, route: Any) -> None:
    assert equal(by(tiered, route), alone(route))
    assert len(live(tiered)) == 2


def test_auto_chooses_among_the_resident(tiered: Meteora) -> None:
    base = logits(tiered.model, IDS)
    assert equal(base, by(tiered, "__base__"))
    tiered.prefetch(["c", "e"])
    assert equal(logits(tiered.model, IDS), alone(Auto(only=["c", "e"])))


def test_the_one_not_named_for_longest_goes(tiered: Meteora) -> None:
    for name in ("a", "b", "a", "c"):
        by(tiered, name)
    assert live(tiered) == {"a", "c"}
    stats = tiered.stats()
    admissions = stats.admissions
    assert admissions is not None
    assert (admissions.hits, admissions.misses, stats.evictions) == (1, 3, 1)
    assert admissions.arrivals.count == 3


def test_it_comes_back_as_itself_without_its_source(tiered: Meteora) -> None:
    by(tiered, "a")
    before = tiered.adapter("a")
    for name in ("b", "c", "a"):
        by(tiered, name)
    after = tiered.adapter("a")
    assert after.id == before.id and after.bytes == before.bytes and after.generation > before.generation


def test_pinned_ones_stay(tiered: Meteora) -> None:
    tiered.pin_adapter("a")
    for name in ("b", "c", "d"):
        by(tiered, name)
        assert live(tiered) == {"a", name}
    tiered.pin_adapter("d")
    with pytest.raises(CapacityError, match=r'"b" does not fit: needs 1 slots, free 0 of 2 .*pinned 2'):
        by(tiered, "b")
    with pytest.raises(AdapterInUseError, match="pinned"):
        tiered.unload_adapter("a")


def test_more_than_the_pools_is_refused_at_once(tiered: Meteora) -> None:
    by(tiered, "a")
    with pytest.raises(CapacityError, match='"b, c, d" does not fit: needs 3 slots'):
        by(tiered, Auto(only=["b", "c", "d"]))
    assert live(tiered) == {"a"}


def test_a_name_that_nobody_knows_brings_nothing_in(tiered: Meteora) -> None:
    for routes in (["a", "nobody"], Mix({"a": 1.0, "nobody": 1.0})):
        with pytest.raises(AdapterNotFoundError, match="nobody"):
            by(tiered, routes)
    with pytest.raises(AdapterNotFoundError, match="'nobody' is registered"):
        tiered.prefetch(["a", "nobody"])
    with pytest.raises(RouteError, match="no group '@nobody'"):
        tiered.prefetch(["a", "@nobody"])
    assert live(tiered) == set()


def test_unloading_what_rests(tiered: Meteora) -> None:
    tiered.set_alias("best", "a")
    with pytest.raises(AdapterInUseError, match="alias 'best'"):
        tiered.unload_adapter("a")
    assert equal(by(tiered, "best"), alone("a"))
    tiered.remove_alias("best")
    tiered.prefetch(["b", "c"])
    assert tiered.unload_adapter("a").memory_free
    tiered.unload_adapter("b")
    for name in ("a", "b"):
        with pytest.raises(AdapterNotFoundError, match=name):
            by(tiered, name)
    assert [record.name for record in tiered.registered_adapters()] == ["c", "d", "e"]


def test_without_a_host_tier_nothing_is_evicted(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 4), "a")
    with pytest.raises(CapacityError, match="needs 1 slots"):
        meteora.load_adapter(adapter(model, 4), "b")
    with pytest.raises(MeteoraError, match="no host tier"):
        meteora.register_adapter(adapter(model, 4), "b")
    assert meteora.stats().admissions is None


def test_a_group_comes_together(tiered: Meteora) -> None:
    tiered.set_group("pair", ["c", "e"])
    tiered.prefetch("@pair")
    assert live(tiered) == {"c", "e"}
    assert equal(by(tiered, Auto(only="@pair")), alone(Auto(only=["c", "e"])))
