"""Requests that wait for room on the device: in order, for so long, and not in the way of others."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.errors import CapacityError
from meteora_rs.tiers import Admission
from tiers_case import IDS, NAMES, alone, attached, by, live
from tiny import adapter, equal, logits
from torch import Tensor
from transformers import PreTrainedModel


def until(said: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not said():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_requests_wait_for_room_that_others_hold(tiered: Meteora) -> None:
    expected = {name: alone(name) for name in NAMES}
    answers: dict[str, Tensor] = {}
    release = {name: threading.Event() for name in NAMES}

    def ask(name: str) -> None:
        with tiered.routing(name):
            answers[name] = logits(tiered.model, IDS)
            release[name].wait()

    def start(name: str) -> threading.Thread:
        thread = threading.Thread(target=ask, args=(name,))
        thread.start()
        return thread

    def waiting() -> int:
        admissions = tiered.stats().admissions
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
        thread.join()
    assert all(equal(answer, expected[name]) for name, answer in answers.items())
    assert tiered.stats().admissions.waits.count == 4  # type: ignore[union-attr]


def test_others_pass_who_need_no_room(tiered: Meteora) -> None:
    tiered.prefetch(["a", "b"])
    with tiered.routing("b"), tiered.routing("a"):
        waiting = threading.Thread(target=by, args=(tiered, "c"))
        waiting.start()
        until(lambda: len(live(tiered)) == 1)  # the other one serves nobody who begins now
        stays = live(tiered)
        by(tiered, *stays)
    waiting.join()
    assert live(tiered) == {*stays, "c"}


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
        thread.join()
        assert "held 1 until running requests end" in said[0]
        assert "(admission_timeout=0.2); pinned: none; held: a (routing in MainThread, " in said[0]
        tenants = ask()  # from inside a block: others' names are not for it
        assert "held 1" in tenants and "MainThread" not in tenants
    assert equal(by(meteora, "b"), alone("b"))


def test_nothing_of_a_request_is_taken_before_it_has_its_plan(model: PreTrainedModel) -> None:
    meteora = attached(model, slots=2, timeout=120.0)
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
        thread.join()
    assert not wrong
    assert meteora.stats().slots.held == 0


def test_who_waits_holds_nothing_that_it_waits_for(tiered: Meteora) -> None:
    """What is live when a request asks is not kept from those who make room, itself among them."""
    tiered.prefetch(["a", "b"])
    with tiered._admission(["c"]):
        stays = sorted(live(tiered))
        waiting = threading.Thread(target=by, args=(tiered, Auto(only=("d", "e"))))
        waiting.start()
        until(lambda: tiered.stats().admissions.waiting > 0)  # type: ignore[union-attr]
        tiered.set_alias("other", stays[0])  # a change that no request asked for: the default plan is another now
    waiting.join()
    assert live(tiered) == {"d", "e"} and tiered.stats().slots.held == 0


def test_an_event_loop_waits_without_standing_still(tiered: Meteora) -> None:
    async def hold(name: str, entered: asyncio.Event, release: asyncio.Event) -> None:
        async with tiered.routing(name):
            entered.set()
            await release.wait()

    async def ask(name: str) -> Tensor:
        async with tiered.routing(name):
            return logits(tiered.model, IDS)

    async def both() -> None:
        release = asyncio.Event()
        entered = [asyncio.Event(), asyncio.Event()]
        holders = [asyncio.create_task(hold(name, e, release)) for name, e in zip("ab", entered, strict=True)]
        for each in entered:
            await each.wait()
        with pytest.raises(CapacityError, match="async with"):
            by(tiered, "c")
        waiting = asyncio.create_task(ask("c"))
        cancelled = asyncio.create_task(tiered.aprefetch(["d"]))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        cancelled.cancel()
        release.set()
        assert equal(await waiting, alone("c"))
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await asyncio.gather(*holders)
        await tiered.aprefetch(["d", "e"])

    asyncio.run(both())
    assert live(tiered) == {"d", "e"}
    assert tiered.stats().admissions.waiting == 0  # type: ignore[union-attr]


def test_a_turn_ends_with_its_thread_though_the_loop_is_closed(
    tiered: Meteora, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, closed = threading.Event(), threading.Event()
    bring = Admission._bring

    def late(self: Admission, names: list[str]) -> bool:
        began.set()
        closed.wait()
        return bring(self, names)

    async def given_up() -> None:
        task = asyncio.create_task(tiered.aprefetch(["a"]))
        while not began.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with monkeypatch.context() as patched:
        patched.setattr(Admission, "_bring", late)
        asyncio.run(given_up())
        closed.set()
        tiered._admitting.submit(lambda: None).result()
    gc.disable()
    try:
        tiered.prefetch(["b"])
    finally:
        gc.enable()


def test_what_fails_after_it_was_cancelled_is_told_to_nobody(
    tiered: Meteora, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop closes when it has heard of the error, and before anybody could have asked for it."""
    began, cancelled = threading.Event(), threading.Event()

    def fail(self: Admission, names: list[str]) -> bool:
        began.set()
        cancelled.wait()
        raise OSError("gone")

    monkeypatch.setattr(Admission, "_bring", fail)
    loop = asyncio.new_event_loop()
    task = loop.create_task(tiered.aprefetch(["a"]))
    while not began.is_set():
        loop.run_until_complete(asyncio.sleep(0.001))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    cancelled.set()
    tiered._admitting.submit(lambda: None).result()  # its one thread is done with what came before
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    del task
    gc.collect()
    assert not caplog.records
    assert tiered.stats().admissions.waiting == 0  # type: ignore[union-attr]
