"""`routing(…, confine=True)`: what is opened inside reaches what the block reaches, and learns of nothing else."""

from __future__ import annotations

import asyncio
import threading
from itertools import product
from typing import Any

import pytest
from meteora_rs import Auto, Meteora, Mix
from meteora_rs.errors import AdapterNotFoundError, MeteoraError
from tiers_case import live
from tiny import adapter, equal, gate_rows, logits, prompt
from torch import Tensor

IDS = prompt()
NOBODY = "nobody"
OTHERS = ["law", "sql", "public"]
OUTER = [Auto(only=["math"]), "math", Mix({"math": 0.5}), Auto(only="@tenant"), "mine", ["math", "__base__"]]


@pytest.fixture
def shared(loaded: Meteora) -> Meteora:
    """Three adapters, of which a tenant has math; aliases and groups of both sides."""
    loaded.set_alias("mine", "math")
    loaded.set_alias("public", "law")
    loaded.set_group("tenant", ["mine"])
    loaded.set_group("others", ["law", "sql"])
    loaded.set_group("mixed", ["math", "law"])
    return loaded


def by(meteora: Meteora, route: Any, **options: Any) -> Tensor:
    with meteora.routing(route, **options):
        return logits(meteora.model, IDS)


def refusal(meteora: Meteora, route: Any) -> tuple[type[MeteoraError], str]:
    with pytest.raises(MeteoraError) as caught, meteora.routing(route):
        pytest.fail("it was found")
    return type(caught.value), str(caught.value)


def written(route: Any, name: str) -> Any:
    """`route` with `name` where it says NAME."""
    if isinstance(route, list):
        return [written(each, name) for each in route]
    if isinstance(route, Auto):
        return Auto(only=[each.replace("NAME", name) for each in route.only or ()])
    if isinstance(route, Mix):
        return Mix({each.replace("NAME", name): weight for each, weight in route.weights.items()})
    return route.replace("NAME", name)


def refused_alike(meteora: Meteora, route: Any, name: str) -> None:
    """A route with this name is refused as one is with a name that nobody has."""
    kind, text = refusal(meteora, written(route, NOBODY))
    assert refusal(meteora, written(route, name)) == (kind, text.replace(NOBODY, name))


@pytest.mark.parametrize("outer", OUTER)
def test_a_name_beyond_is_as_one_that_nobody_has(shared: Meteora, outer: Any) -> None:
    routes = [
        "NAME",
        Auto(only=["NAME"]),
        Auto(only=["math", "NAME"]),
        Mix({"NAME": 1.0}),
        Mix({"math": 0.5, "NAME": 0.0}),
        ["math", "__base__", "NAME"],
    ]
    with shared.routing(outer, confine=True):
        for name, route in product(OTHERS, routes):
            refused_alike(shared, route, name)


@pytest.mark.parametrize("route", [Auto(only=["math", NOBODY, "law"]), Mix({"math": 0.5, NOBODY: 0.5, "law": 0.5})])
def test_a_list_is_told_of_what_is_within_alone(shared: Meteora, route: Any) -> None:
    assert "in this route, loaded: law, math;" in refusal(shared, route)[1]
    with shared.routing("math", confine=True):
        assert "in this route, loaded: math;" in refusal(shared, route)[1]
        assert refusal(shared, NOBODY)[1].endswith("; loaded: math")
    with shared.routing("sql", confine=True):
        assert "in this route, loaded: none;" in refusal(shared, route)[1]


@pytest.mark.parametrize("group", ["others", "mixed"])
@pytest.mark.parametrize("route", [Auto(only="@NAME"), Auto(only=["math", "@NAME"]), ["math", Auto(only="@NAME")]])
def test_a_group_beyond_is_as_one_that_there_is_not(shared: Meteora, group: str, route: Any) -> None:
    with shared.routing("math", confine=True):
        refused_alike(shared, route, group)


def test_a_refusal_says_nothing_of_gates(meteora: Meteora) -> None:
    meteora.load_adapter(adapter(meteora.model, 4, seed=1), "math")
    meteora.load_adapter(adapter(meteora.model, 4, seed=2), "law", gate="none")
    with meteora.routing("math", confine=True):
        refused_alike(meteora, Auto(only=["NAME"]), "law")


@pytest.mark.parametrize("outer", OUTER)
def test_what_is_within_is_as_ever(shared: Meteora, outer: Any) -> None:
    routes = ["math", "mine", Auto(only=["math"]), Auto(only="@tenant"), Mix({"mine": 0.5}), "__base__"]
    plain = [by(shared, route) for route in routes]
    with shared.routing(outer, confine=True):
        assert all(equal(by(shared, route), expected) for route, expected in zip(routes, plain, strict=True))


def test_gates_choose_among_what_is_within(shared: Meteora) -> None:
    """Restricted before top-k: with one place for two adapters and a loud third, the third takes no place."""
    shared.set_gates({"sql": gate_rows(shared, 7, scale=30.0)})
    wanted = by(shared, Auto(only=["math", "law"]), top_k=1)
    assert not equal(by(shared, Auto(), top_k=1), wanted)
    with shared.routing(["math", "law", "__base__"], confine=True):
        assert equal(by(shared, Auto(), top_k=1), wanted)
        assert equal(by(shared, [Auto(), "math", Auto()], top_k=1)[0], wanted[0])
    with shared.routing("__base__", confine=True):
        assert equal(by(shared, Auto()), by(shared, "__base__"))
        refused_alike(shared, "NAME", "math")


def test_only_what_is_confined_is_confined(shared: Meteora) -> None:
    law = by(shared, "law")
    with shared.routing("math"):
        assert equal(by(shared, "law"), law)
    with shared.routing("math", confine=True):
        refused_alike(shared, "NAME", "law")
    assert equal(by(shared, "law"), law)
    with pytest.raises(KeyboardInterrupt), shared.routing("math", confine=True):
        raise KeyboardInterrupt
    assert equal(by(shared, "law"), law)


def test_blocks_inside_only_narrow(shared: Meteora) -> None:
    with shared.routing(["math", "law"], confine=True):
        with shared.routing("law"):  # not confined itself: what is inside it reaches what the outermost does
            by(shared, "math")
            refused_alike(shared, "NAME", "sql")
        with shared.routing(Auto(), confine=True):
            by(shared, ["math", "law", "mine"])
            with shared.routing("law", confine=True):
                refused_alike(shared, "NAME", "math")
                refused_alike(shared, Auto(only=["law", "NAME"]), "sql")
                assert refusal(shared, NOBODY)[1].endswith("loaded: law")
            by(shared, "math")
        assert refusal(shared, "sql")[1].endswith("loaded: law, math")


def test_the_reach_is_of_when_the_block_began(shared: Meteora) -> None:
    old = by(shared, "math")
    with shared.routing(Auto(only="@tenant"), confine=True):
        shared.set_group("tenant", ["math", "law"])
        shared.set_alias("mine", "law")
        refused_alike(shared, Auto(only="@NAME"), "tenant")
        refused_alike(shared, "NAME", "mine")
        shared.reload_adapter("math", adapter(shared.model, 4, seed=9))
        assert not equal(by(shared, "math"), old), "a block inside sees the adapters that are live when it begins"
        shared.unload_adapter("math")
        assert refusal(shared, "math") == (AdapterNotFoundError, 'no adapter named "math"; loaded: none')
        assert equal(by(shared, Auto()), by(shared, "__base__"))


def test_traces_tell_of_what_is_within(shared: Meteora) -> None:
    with shared.routing("math", confine=True), shared.routing(Auto()), shared.trace() as trace:
        shared.model.generate(IDS, max_new_tokens=2, do_sample=False)
    assert trace.adapters == ["math"]


def test_tasks_and_threads(shared: Meteora) -> None:
    async def within() -> None:
        refused_alike(shared, "NAME", "law")
        by(shared, "math")
        await asyncio.sleep(0)
        refused_alike(shared, "NAME", "law")

    async def beside(opened: asyncio.Event) -> None:
        await opened.wait()
        by(shared, "law")

    async def confined() -> None:
        opened = asyncio.Event()
        other = asyncio.create_task(beside(opened))
        async with shared.routing("math", confine=True):
            opened.set()
            await asyncio.gather(within(), asyncio.create_task(within()), asyncio.to_thread(by, shared, "math"))
            with pytest.raises(AdapterNotFoundError):
                await asyncio.to_thread(by, shared, "law")
            await other
        by(shared, "law")

    asyncio.run(confined())
    done: list[Tensor] = []
    with shared.routing("math", confine=True):
        thread = threading.Thread(target=lambda: done.append(by(shared, "law")))
        thread.start()
        thread.join()
    assert done


def test_a_task_that_outlives_the_block_stays_confined(shared: Meteora) -> None:
    async def late(ended: asyncio.Event) -> None:
        by(shared, "math")
        await ended.wait()
        for _ in range(2):
            refused_alike(shared, "NAME", "law")
            by(shared, "math")
        with shared.routing("__base__", confine=True):
            refused_alike(shared, "NAME", "math")
        refused_alike(shared, "NAME", "law")

    async def main() -> None:
        ended = asyncio.Event()
        with shared.routing(["math", "sql"], confine=True), shared.routing("math"):
            task = asyncio.create_task(late(ended))
            await asyncio.sleep(0)
        ended.set()
        await task
        by(shared, "law")

    asyncio.run(main())


def test_blocks_closed_in_another_order(shared: Meteora) -> None:
    outer, inner = shared.routing("math", confine=True), shared.routing("__base__")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    refused_alike(shared, "NAME", "law")
    inner.__exit__(None, None, None)
    by(shared, "law")


def test_a_function_may_be_confined(shared: Meteora) -> None:
    @shared.routing("math", confine=True)
    def served(route: Any) -> Tensor:
        return by(shared, route)

    for _ in range(2):
        served("math")
        with pytest.raises(AdapterNotFoundError):
            served("law")


def counts(meteora: Meteora) -> tuple[int, int]:
    """How many names were asked for, that were on the device and that were not."""
    admissions = meteora.stats().admissions
    assert admissions is not None
    return admissions.hits, admissions.misses


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("route", ["NAME", Auto(only=["a", "NAME"]), Mix({"NAME": 0.5, "a": 1.0}), ["d", "NAME"]])
def test_what_rests_is_neither_told_of_nor_brought_in(tiered: Meteora, route: Any, awaited: bool) -> None:
    tiered.set_alias("other", "c")
    by(tiered, "b")

    async def waiting(asked: Any) -> str:
        with pytest.raises(AdapterNotFoundError) as caught:
            async with tiered.routing(asked):
                pytest.fail("it was found")
        return str(caught.value)

    def told(name: str) -> tuple[str, int, int]:
        """What is said, and what was counted."""
        asked, (hits, misses) = written(route, name), counts(tiered)
        text = asyncio.run(waiting(asked)) if awaited else refusal(tiered, asked)[1]
        now = counts(tiered)
        return text.replace(name, NOBODY), now[0] - hits, now[1] - misses

    with tiered.routing("a", confine=True):
        nobody = told(NOBODY)
        for name in ("b", "c", "other"):  # on the device, at rest, an alias
            assert told(name) == nobody
        assert live(tiered) == {"a", "b"}


def test_a_group_that_rests(tiered: Meteora) -> None:
    tiered.set_group("others", ["a", "c"])
    with tiered.routing("a", confine=True):
        refused_alike(tiered, Auto(only=["a", "@NAME"]), "others")
        assert "c" not in live(tiered)
    tiered.set_group("tenant", ["a", "b"])
    with tiered.routing(Auto(only="@tenant"), confine=True):
        pass
    assert live(tiered) == {"a", "b"}


@pytest.mark.parametrize("confine", [False, True])
def test_what_is_within_is_brought_in(tiered: Meteora, confine: bool) -> None:
    expected = by(tiered, "a")
    with tiered.routing("a", confine=True):
        tiered.unload_adapter("a")
        assert refusal(tiered, "a") == (AdapterNotFoundError, 'no adapter named "a"; loaded: none')
        tiered.register_adapter(adapter(tiered.model, 4, seed=0), "a")
        assert live(tiered) == set()
        assert equal(by(tiered, "a", confine=confine), expected)
