"""More adapters than the pools hold: registered, brought in when a request names them, evicted for others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix
from meteora_rs.errors import (
    AdapterFormatError,
    AdapterInUseError,
    AdapterNotFoundError,
    CapacityError,
    MeteoraError,
    RouteError,
)
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model, write
from torch import Tensor
from transformers import PreTrainedModel

IDS = prompt()
NAMES = ("a", "b", "c", "d", "e")
HOST = 8 << 20


def attached(model: PreTrainedModel, slots: int = 2, host_bytes: int = HOST, timeout: float = 5.0) -> Meteora:
    config = MeteoraConfig(max_adapters=slots, pool_rank=8 * slots, host_bytes=host_bytes, admission_timeout=timeout)
    return meteora_rs.attach(model, config)


@pytest.fixture
def meteora(model: PreTrainedModel) -> Iterator[Meteora]:
    """Two slots and five registered adapters, "a" to "e"."""
    meteora = attached(model)
    for seed, name in enumerate(NAMES):
        meteora.register_adapter(adapter(model, 4, seed=seed), name)
    yield meteora
    meteora.detach()


def by(meteora: Meteora, route: Any) -> Tensor:
    with meteora.routing(route):
        return logits(meteora.model, IDS)


def alone(route: Any, *, gates: bool = False) -> Tensor:
    """What a model says that has all five adapters in its pools, and had them in the same order."""
    model = tiny_model()
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=5, pool_rank=40))
    for seed, name in enumerate(NAMES):
        gate: Any = gate_rows(meteora, seed) if gates else "arrow"
        meteora.load_adapter(adapter(model, 4, seed=seed), name, gate=gate)
    return by(meteora, route)


def until(said: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not said():
        assert time.monotonic() < end
        time.sleep(0.001)


def live(meteora: Meteora) -> set[str]:
    return {record.name for record in meteora.adapters()}


def test_registered_adapters_rest_and_come_when_they_are_named(meteora: Meteora) -> None:
    assert live(meteora) == set()
    assert [(r.name, r.tier, r.slot) for r in meteora.registered_adapters()] == [(n, "host", -1) for n in NAMES]
    for name in [*NAMES, *reversed(NAMES)]:
        assert equal(by(meteora, name), alone(name))
    assert live(meteora) == {"a", "b"}
    tiers = {record.name: record.tier for record in meteora.registered_adapters()}
    assert tiers == {"a": "device", "b": "device", "c": "host", "d": "host", "e": "host"}


@pytest.mark.parametrize("route", [Mix({"b": 0.5, "d": 2.0}), Auto(only=["c", "e"]), ["a", "e", "__base__"]])
def test_all_of_a_request_come_together(meteora: Meteora, route: Any) -> None:
    assert equal(by(meteora, route), alone(route))
    assert len(live(meteora)) == 2


def test_auto_chooses_among_the_resident(meteora: Meteora) -> None:
    base = logits(meteora.model, IDS)
    assert equal(base, by(meteora, "__base__"))
    meteora.prefetch(["c", "e"])
    assert equal(logits(meteora.model, IDS), alone(Auto(only=["c", "e"])))


def test_the_one_not_named_for_longest_goes(meteora: Meteora) -> None:
    for name in ("a", "b", "a", "c"):
        by(meteora, name)
    assert live(meteora) == {"a", "c"}
    stats = meteora.stats()
    admissions = stats.admissions
    assert admissions is not None
    assert (admissions.hits, admissions.misses, stats.evictions) == (1, 3, 1)
    assert admissions.arrivals.count == 3


def test_it_comes_back_as_itself_without_its_source(meteora: Meteora) -> None:
    by(meteora, "a")
    before = meteora.adapter("a")
    for name in ("b", "c", "a"):
        by(meteora, name)
    after = meteora.adapter("a")
    assert after.id == before.id and after.bytes == before.bytes and after.generation > before.generation


def test_gates_that_were_changed_come_home_with_it(meteora: Meteora) -> None:
    meteora.prefetch(["a", "b"])
    rows = {"a": gate_rows(meteora, 0), "b": gate_rows(meteora, 1)}
    meteora.set_gates(rows)
    meteora.prefetch(["c", "d"])
    assert live(meteora) == {"c", "d"}
    assert equal(by(meteora, Auto(only=["a", "b"])), alone(Auto(only=["a", "b"]), gates=True))
    kept = meteora.gate_rows()
    for name, each in rows.items():
        for path, (row, bias) in each.items():
            assert equal(kept[name][path][0], row) and kept[name][path][1] == pytest.approx(bias)
    assert [record.gate for record in meteora.adapters()] == ["fitted", "fitted"]


def test_pinned_ones_stay(meteora: Meteora) -> None:
    meteora.pin_adapter("a")
    for name in ("b", "c", "d"):
        by(meteora, name)
        assert live(meteora) == {"a", name}
    meteora.pin_adapter("d")
    with pytest.raises(CapacityError, match=r'"b" does not fit: needs 1 slots, free 0 of 2 .*pinned 2'):
        by(meteora, "b")
    with pytest.raises(AdapterInUseError, match="pinned"):
        meteora.unload_adapter("a")


def test_more_than_the_pools_is_refused_at_once(meteora: Meteora) -> None:
    by(meteora, "a")
    with pytest.raises(CapacityError, match='"b, c, d" does not fit: needs 3 slots'):
        by(meteora, Auto(only=["b", "c", "d"]))
    assert live(meteora) == {"a"}


def test_a_name_that_nobody_knows_brings_nothing_in(meteora: Meteora) -> None:
    for routes in (["a", "nobody"], Mix({"a": 1.0, "nobody": 1.0})):
        with pytest.raises(AdapterNotFoundError, match="nobody"):
            by(meteora, routes)
    with pytest.raises(AdapterNotFoundError, match="'nobody' is registered"):
        meteora.prefetch(["a", "nobody"])
    with pytest.raises(RouteError, match="no group '@nobody'"):
        meteora.prefetch(["a", "@nobody"])
    assert live(meteora) == set()


def test_requests_wait_for_room_that_others_hold(meteora: Meteora) -> None:
    expected = {name: alone(name) for name in NAMES}
    answers: dict[str, Tensor] = {}
    release = {name: threading.Event() for name in NAMES}

    def ask(name: str) -> None:
        with meteora.routing(name):
            answers[name] = logits(meteora.model, IDS)
            release[name].wait(20)

    def start(name: str) -> threading.Thread:
        thread = threading.Thread(target=ask, args=(name,))
        thread.start()
        return thread

    def waiting() -> int:
        admissions = meteora.stats().admissions
        assert admissions is not None
        return admissions.waiting

    threads = [start("a"), start("b")]
    until(lambda: answers.keys() == {"a", "b"})
    for number, name in enumerate(("c", "d"), 1):
        threads.append(start(name))
        until(lambda number=number: waiting() == number)  # type: ignore[misc]
    release["b"].set()
    until(lambda: "c" in answers)
    assert "d" not in answers and waiting() == 1
    release["a"].set()
    until(lambda: "d" in answers)
    for event in release.values():
        event.set()
    for thread in threads:
        thread.join(10)
    assert all(equal(answer, expected[name]) for name, answer in answers.items())
    assert meteora.stats().admissions.waits.count == 4  # type: ignore[union-attr]


def test_others_pass_who_need_no_room(meteora: Meteora) -> None:
    meteora.prefetch(["a", "b"])
    with meteora.routing("b"), meteora.routing("a"):
        waiting = threading.Thread(target=by, args=(meteora, "c"))
        waiting.start()
        while not meteora.stats().admissions.waiting:  # type: ignore[union-attr]
            time.sleep(0.001)
        time.sleep(0.02)
        stays = live(meteora)
        assert len(stays) == 1  # the other one serves nobody who begins now
        by(meteora, *stays)
    waiting.join(10)
    assert live(meteora) == {*stays, "c"}


def test_the_deadline_says_who_holds_the_room(model: PreTrainedModel) -> None:
    meteora = attached(model, slots=1, timeout=0.2)
    for seed, name in enumerate(NAMES[:3]):
        meteora.register_adapter(adapter(model, 4, seed=seed), name)

    def ask() -> str:
        with pytest.raises(CapacityError) as caught:
            by(meteora, "b")
        return str(caught.value)

    said: list[str] = []
    with meteora.routing("a"):
        thread = threading.Thread(target=lambda: said.append(ask()))
        thread.start()
        thread.join(10)
        assert "held 1 until running requests end" in said[0]
        assert "(admission_timeout=0.2); pinned: none; held: a (routing in MainThread, " in said[0]
        tenants = ask()  # from inside a block: others' names are not for it
        assert "held 1" in tenants and "MainThread" not in tenants
    assert equal(by(meteora, "b"), alone("b"))


def test_nothing_of_a_request_is_taken_before_it_has_its_plan(model: PreTrainedModel) -> None:
    meteora = attached(model, slots=2, timeout=20.0)
    pairs = [("a", "b"), ("c", "d"), ("e", "a"), ("b", "d")]
    for seed, name in enumerate(NAMES):
        meteora.register_adapter(adapter(model, 4, seed=seed), name)
    expected = {pair: alone(Auto(only=pair)) for pair in pairs}
    wrong: list[Any] = []

    def ask(offset: int) -> None:
        for turn in range(12):
            pair = pairs[(turn + offset) % len(pairs)]
            try:
                if not torch.allclose(by(meteora, Auto(only=pair)), expected[pair], atol=1e-4):
                    wrong.append(pair)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert meteora.stats().slots.held == 0


def test_an_event_loop_waits_without_standing_still(meteora: Meteora) -> None:
    async def hold(name: str, entered: asyncio.Event, release: asyncio.Event) -> None:
        async with meteora.routing(name):
            entered.set()
            await release.wait()

    async def ask(name: str) -> Tensor:
        async with meteora.routing(name):
            return logits(meteora.model, IDS)

    async def both() -> None:
        release = asyncio.Event()
        entered = [asyncio.Event(), asyncio.Event()]
        holders = [asyncio.create_task(hold(name, e, release)) for name, e in zip("ab", entered, strict=True)]
        for each in entered:
            await each.wait()
        with pytest.raises(CapacityError, match="async with"):
            by(meteora, "c")
        waiting = asyncio.create_task(ask("c"))
        cancelled = asyncio.create_task(meteora.aprefetch(["d"]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        cancelled.cancel()
        release.set()
        assert equal(await waiting, alone("c"))
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.gather(*holders)
        await meteora.aprefetch(["d", "e"])

    asyncio.run(both())
    assert live(meteora) == {"d", "e"}
    assert meteora.stats().admissions.waiting == 0  # type: ignore[union-attr]


def test_loading_makes_room_and_leaves_a_copy(meteora: Meteora, model: PreTrainedModel) -> None:
    meteora.prefetch(["a", "b"])
    record = meteora.load_adapter(adapter(model, 4, seed=9), "new", gate="none")
    assert record.tier == "device" and live(meteora) == {"b", "new"}
    new = by(meteora, "new")
    meteora.prefetch(["c", "d"])
    assert equal(by(meteora, "new"), new)
    with pytest.raises(AdapterInUseError, match="registered under this name"):
        meteora.load_adapter(adapter(model, 4), "a")
    with pytest.raises(AdapterInUseError, match="has this name"):
        meteora.register_adapter(adapter(model, 4), "new")


def test_reloading_what_rests_changes_the_hosts_copy(meteora: Meteora, model: PreTrainedModel) -> None:
    changed = adapter(model, 4, seed=4)
    assert meteora.reload_adapter("a", changed).tier == "host"
    assert live(meteora) == set()
    assert equal(by(meteora, "a"), alone("e"))
    meteora.reload_adapter("a", adapter(model, 4, seed=3))
    meteora.prefetch(["b", "c"])
    assert equal(by(meteora, "a"), alone("d"))
    generation = meteora.adapter("a").generation
    meteora.prefetch(["b", "c"])
    with pytest.raises(AdapterInUseError, match="generation"):
        meteora.reload_adapter("a", changed, if_generation=generation)


def test_reloading_what_rests_keeps_given_gates(meteora: Meteora, model: PreTrainedModel) -> None:
    meteora.prefetch(["a"])
    rows = gate_rows(meteora, 5)
    meteora.set_gates({"a": rows})
    meteora.prefetch(["b", "c"])
    meteora.reload_adapter("a", adapter(model, 4, seed=4))
    meteora.prefetch(["a"])
    assert meteora.adapter("a").gate == "fitted"
    assert all(equal(meteora.gate_rows()["a"][path][0], row) for path, (row, _) in rows.items())


def test_groups_and_bundles(meteora: Meteora, tmp_path: Path) -> None:
    meteora.set_group("pair", ["c", "e"])
    meteora.prefetch("@pair")
    assert live(meteora) == {"c", "e"}
    assert equal(by(meteora, Auto(only="@pair")), alone(Auto(only=["c", "e"])))
    with pytest.raises(MeteoraError, match="3 registered adapters are not"):
        meteora.save_pretrained(tmp_path / "bundle")
    for name in ("a", "b", "d"):
        meteora.unload_adapter(name)
    meteora.save_pretrained(tmp_path / "bundle")
    meteora.detach()
    again = meteora_rs.attach_pretrained(tiny_model(), tmp_path / "bundle")
    assert equal(by(again, "e"), alone("e"))


def test_unloading_what_rests(meteora: Meteora) -> None:
    meteora.set_alias("best", "a")
    with pytest.raises(AdapterInUseError, match="alias 'best'"):
        meteora.unload_adapter("a")
    assert equal(by(meteora, "best"), alone("a"))
    meteora.remove_alias("best")
    meteora.prefetch(["b", "c"])
    assert meteora.unload_adapter("a").memory_free
    meteora.unload_adapter("b")
    for name in ("a", "b"):
        with pytest.raises(AdapterNotFoundError, match=name):
            by(meteora, name)
    assert [record.name for record in meteora.registered_adapters()] == ["c", "d", "e"]


def test_without_a_host_tier_nothing_is_evicted(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 4), "a")
    with pytest.raises(CapacityError, match="needs 1 slots"):
        meteora.load_adapter(adapter(model, 4), "b")
    with pytest.raises(MeteoraError, match="no host tier"):
        meteora.register_adapter(adapter(model, 4), "b")
    assert meteora.stats().admissions is None


def size_of_one(model: PreTrainedModel, tmp_path: Path) -> int:
    meteora = attached(model)
    meteora.register_adapter(write(adapter(model, 4), tmp_path / "one"), "one")
    used = meteora.stats().tiers["host"].touched
    meteora.detach()
    return used


def test_the_hosts_budget_is_hard(model: PreTrainedModel, tmp_path: Path) -> None:
    one = size_of_one(model, tmp_path)
    meteora = attached(model, slots=1, host_bytes=2 * one)
    folders = {n: write(adapter(model, 4, seed=s), tmp_path / n) for s, n in enumerate(NAMES)}
    for name in ("a", "b", "c"):
        meteora.register_adapter(folders[name], name)
    host = meteora.stats().tiers["host"]
    assert host.touched == host.reserved == 2 * one and set(host.adapters) == {"b", "c"}
    tiers = {record.name: record.tier for record in meteora.registered_adapters()}
    assert tiers == {"a": "disk", "b": "host", "c": "host"}
    assert equal(by(meteora, "a"), alone("a"))  # read again; "b" went for it
    memory = adapter(model, 4, seed=3)
    meteora.register_adapter(memory, "d")
    with pytest.raises(CapacityError, match=r"needs .* host bytes, free 0 of .* raise host_bytes"):
        meteora.register_adapter(memory, "e")
    assert not meteora.stats().tiers["host"].adapters.keys() - {"a", "d"}
    assert equal(by(meteora, "d"), alone("d"))
    assert equal(by(meteora, "b"), alone("b"))  # "a" rests now, and goes to disk for it


def test_files_that_changed_are_never_served_as_the_old_adapter(model: PreTrainedModel, tmp_path: Path) -> None:
    one = size_of_one(model, tmp_path)
    meteora = attached(model, slots=1, host_bytes=one)
    for seed, name in enumerate(("a", "b")):
        meteora.register_adapter(write(adapter(model, 4, seed=seed), tmp_path / name), name)
    write(adapter(model, 4, seed=2), tmp_path / "a")
    with pytest.raises(AdapterFormatError, match="'a': its files have changed since it was registered"):
        by(meteora, "a")
    meteora.reload_adapter("a", tmp_path / "a")
    assert equal(by(meteora, "a"), alone("c"))
    (tmp_path / "b" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        by(meteora, "b")
