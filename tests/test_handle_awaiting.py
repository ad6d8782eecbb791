"""Changes that are awaited: the loop runs on, and what is cancelled leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from meteora_rs import Meteora, MeteoraConfig, _native, attach
from meteora_rs.errors import AdapterFormatError, AdapterInUseError
from meteora_rs.gate_kinds import ArrowGate, TensorGate
from meteora_rs.handle.awaiting import _unless_asked
from meteora_rs.serving.cancel import Cancellation
from meteora_rs.serving.load import Load
from tiny import adapter, equal, gate_rows, logits, prompt, usage, write
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel


def test_loads_beside_requests(loaded: Meteora) -> None:
    model = loaded.model

    async def main() -> None:
        loaded.unload_adapter("sql")  # else the reload may take the last slot before the load does
        before = logits(model, prompt())
        with loaded.routing("math"):
            math = logits(model, prompt())
            new, old = await asyncio.gather(
                loaded.aload_adapter(adapter(model, 8, seed=5), "new"),
                loaded.areload_adapter(
                    "law", adapter(model, 8, seed=6), if_generation=loaded.adapter("law").generation
                ),
            )
            assert equal(logits(model, prompt()), math)
        assert [new, old] == [loaded.adapter("new"), loaded.adapter("law")]
        assert not equal(logits(model, prompt()), before)
        with pytest.raises(AdapterInUseError, match="a live adapter has this name"):
            await loaded.aload_adapter(adapter(model), "new")
        with pytest.raises(AdapterFormatError):
            await loaded.aload_adapter({}, "other")  # type: ignore[arg-type]
        assert await loaded.aunload_adapter("new", wait=1)

    asyncio.run(main())


@contextmanager
def stopped_in(stage: str, entered: threading.Event, go_on: threading.Event) -> Iterator[None]:
    """Loads stop at the beginning of a stage until `go_on`."""
    targets: dict[str, tuple[str, Any]] = {
        "parse": ("meteora_rs.serving.load.parse", None),
        "gate": ("meteora_rs.gate_kinds.ArrowGate.write", ArrowGate.write),
        "equal": ("meteora_rs.serving.load.equal_gates", None),
    }
    name, original = targets[stage]
    if original is None:
        module, _, attribute = name.rpartition(".")
        original = getattr(__import__(module, fromlist=[attribute]), attribute)

    def stop(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        go_on.wait()
        return original(*args, **kwargs)

    with patch(name, stop):
        yield


@pytest.mark.parametrize("stage", ["parse", "gate", "equal"])
@pytest.mark.parametrize("reload", [False, True])
def test_a_cancelled_load_leaves_nothing(loaded: Meteora, stage: str, reload: bool) -> None:
    entered, go_on = threading.Event(), threading.Event()
    before, output, records = usage(loaded), logits(loaded.model, prompt()), loaded.adapters()
    source = adapter(loaded.model, 8, seed=5)

    async def main() -> None:
        if reload:
            load = asyncio.create_task(loaded.areload_adapter("math", source))
        else:
            load = asyncio.create_task(loaded.aload_adapter(source, "new"))
        await asyncio.to_thread(entered.wait)
        load.cancel()
        if stage == "parse":  # nothing is held: it returns before the thread does
            with pytest.raises(asyncio.CancelledError):
                await load
        await asyncio.sleep(0)
        load.cancel()  # twice does not hurt
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert usage(loaded) == before and loaded.adapters() == records

    with stopped_in(stage, entered, go_on):
        asyncio.run(main())
    loaded._loaders.submit(int).result()  # the thread has come to its end as well
    assert usage(loaded) == before and equal(logits(loaded.model, prompt()), output)
    loaded.load_adapter(source, "new")


def test_cancelled_between_the_last_stage_and_the_step_that_publishes(loaded: Meteora) -> None:
    """The thread is ready, the loop has not come round to it: a cancellation then still finds nothing published."""
    before, entered, go_on = usage(loaded), threading.Event(), threading.Event()

    async def main() -> None:
        load = asyncio.create_task(loaded.aload_adapter(adapter(loaded.model), "new"))
        await asyncio.to_thread(entered.wait)
        go_on.set()
        while loaded.stats().loads["gate"].count < 4:  # without giving way to the loop
            pass
        loaded._loaders.submit(int).result()
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert usage(loaded) == before

    with stopped_in("gate", entered, go_on):
        asyncio.run(main())


def test_a_reload_in_place_that_has_begun_is_finished(model: PreTrainedModel) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    old = meteora.load_adapter(adapter(model, 8, seed=0), "a")
    entered, go_on = threading.Event(), threading.Event()
    new = adapter(model, 8, seed=1)

    async def main() -> None:
        load = asyncio.create_task(meteora.areload_adapter("a", new))
        await asyncio.to_thread(entered.wait)
        load.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert meteora.adapter("a").generation > old.generation

    with stopped_in("gate", entered, go_on):
        asyncio.run(main())
    with meteora.routing("a"):
        found = logits(model, prompt())
    meteora.reload_adapter("a", new)
    with meteora.routing("a"):
        assert equal(logits(model, prompt()), found)


def test_cancelled_at_any_moment(loaded: Meteora) -> None:
    """Whatever the moment: it is there because the call returned, or it was cancelled and nothing is."""
    source = adapter(loaded.model, 8, seed=5)
    before = usage(loaded)

    async def main() -> list[bool]:
        outcomes = []
        for turn in range(120):
            load = asyncio.create_task(loaded.aload_adapter(source, "new"))
            await asyncio.sleep(turn % 30 * 2e-4)
            load.cancel()
            try:
                await load
            except asyncio.CancelledError:
                assert usage(loaded) == before
                outcomes.append(False)
            else:
                loaded.unload_adapter("new")
                outcomes.append(True)
        return outcomes

    outcomes = asyncio.run(main())
    loaded._loaders.submit(int).result()
    assert usage(loaded) == before and not all(outcomes)


def test_the_loop_is_not_held_up(loaded: Meteora) -> None:
    """While a load is being written, other tasks of the loop run."""
    entered, go_on = threading.Event(), threading.Event()

    async def main() -> None:
        load = asyncio.create_task(loaded.aload_adapter(adapter(loaded.model), "new"))
        await asyncio.to_thread(entered.wait)
        for _ in range(100):
            await asyncio.sleep(0)
        with loaded.routing("math"):
            logits(loaded.model, prompt())
        loaded.unload_adapter("law")  # nor are other changes
        assert not load.done()
        go_on.set()
        assert (await load).name == "new"

    with stopped_in("gate", entered, go_on):
        asyncio.run(main())


@pytest.mark.parametrize("call", ["write_rows", "write_gates", "equal_gates", "parse"])
def test_the_long_calls_leave_the_interpreter_to_others(call: str, tmp_path: Path) -> None:
    """Another thread looks on while one is in the call: with the GIL held, it could not."""
    config = LlamaConfig(
        vocab_size=32, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=4
    )
    model = LlamaForCausalLM(config)
    meteora = attach(model, MeteoraConfig(max_adapters=2, pool_rank=128))
    folder = str(write(adapter(model, 64, seed=0), tmp_path / "a"))
    registry, kernels = meteora._registry, [site.kernel for site in meteora.sites]
    parsed = registry.parse_folder("a", folder)
    reservation = registry.reserve(parsed, False, None)
    gate = TensorGate("a", gate_rows(meteora, 0), meteora.sites)
    groups = [kernels, *([site.kernel for site in group.sites] for group in meteora.groups)] * 20
    calls: dict[str, Callable[[], object]] = {
        "write_rows": lambda: reservation.write_rows(parsed, kernels),
        "write_gates": lambda: gate.write(reservation.slot),
        "equal_gates": lambda: _native.equal_gates(groups, reservation.slot),
        "parse": lambda: registry.parse_folder("b", folder),
    }
    inside, seen = False, False
    stop = threading.Event()

    def look_on() -> None:
        nonlocal seen
        while not stop.is_set():
            seen = seen or inside
            time.sleep(0)  # gives the GIL back: by itself it would not for as long as the interval below

    interval, thread = sys.getswitchinterval(), threading.Thread(target=look_on)
    thread.start()
    sys.setswitchinterval(1000)  # no thread is made to give way: the other one runs only if the call lets go
    try:
        end = time.monotonic() + 60  # on a busy machine it may not be its turn
        while not seen and time.monotonic() < end:
            inside = True
            calls[call]()
            inside = False
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert seen
    reservation.abandon()


def test_a_load_that_fails_after_it_was_cancelled_leaves_no_error_that_nobody_asks_for() -> None:
    """A loop that closes just then would print it."""
    cancellation = Cancellation()

    def prepare(given: Cancellation) -> Load:
        given.check()
        raise OSError("before it was cancelled")

    with pytest.raises(OSError, match="before"):
        _unless_asked(prepare, cancellation)
    cancellation.cancel()
    assert _unless_asked(prepare, cancellation) is None
