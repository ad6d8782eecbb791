"""Unloading says who still reads, and waits for the memory if it is told to."""

from __future__ import annotations

import asyncio
import threading

import pytest
from meteora_rs import Meteora
from tiny import adapter, equal, logits, prompt


def test_without_a_reader_the_memory_is_free_at_once(loaded: Meteora) -> None:
    result = loaded.unload_adapter("math")
    assert result and result.held_by == ()


def test_readers_are_named_and_nothing_is_forced(loaded: Meteora) -> None:
    with loaded.routing("math"), loaded.routing("law"):
        before = logits(loaded.model, prompt())
        result = loaded.unload_adapter("law")
        assert not result
        (held,) = result.held_by
        assert (held.what, held.thread, held.task) == ("routing", threading.current_thread().name, None)
        assert held.adapters == (("law", held.adapters[0][1]),) and held.age >= 0
        assert equal(logits(loaded.model, prompt()), before)
        assert not loaded.unload_adapter("sql", wait=0).held_by
    assert loaded.stats().slots.held == 0


def test_a_wait_ends_with_the_reader_or_with_the_time(loaded: Meteora) -> None:
    entered, leave = threading.Event(), threading.Event()

    def read() -> None:
        with loaded.routing("math"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait()
    generation = loaded.adapter("math").generation
    result = loaded.unload_adapter("math", wait=0.05)
    assert not result.memory_free and [held.adapters for held in result.held_by] == [(("math", generation),)]
    loaded.load_adapter(adapter(loaded.model), "math")
    timer = threading.Timer(0.05, leave.set)
    timer.start()
    with loaded.routing("__base__"):  # holds nothing of it
        assert loaded.unload_adapter("math", wait=3600)  # it ends when the memory is free, and the test in time
    thread.join()
    waits = loaded.stats().waits
    assert waits.count == 2 and waits.longest >= 0.04


def test_tasks_run_while_one_waits(loaded: Meteora) -> None:
    async def main() -> None:
        leave = asyncio.Event()

        async def read() -> None:
            with loaded.routing("math"):
                await leave.wait()

        reader = asyncio.create_task(read(), name="reader")
        await asyncio.sleep(0)
        result = await loaded.aunload_adapter("math", wait=0.01)
        assert not result and result.held_by[0].task == "reader"
        waiting = asyncio.create_task(loaded.aunload_adapter("law", wait=60))
        with loaded.routing("sql"):
            pass
        assert await waiting
        cancelled = asyncio.create_task(loaded.aunload_adapter("sql", wait=60))
        await asyncio.sleep(0)
        leave.set()
        await reader
        assert await cancelled

    asyncio.run(main())


def test_a_wait_can_be_cancelled(loaded: Meteora) -> None:
    async def main() -> None:
        with loaded.routing("math"):
            waiting = asyncio.create_task(loaded.aunload_adapter("math", wait=60))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert [record.name for record in loaded.adapters()] == ["law", "sql"]

    asyncio.run(main())
