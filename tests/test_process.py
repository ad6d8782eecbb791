"""Signals, forks, and the end of the process: in the middle of loads."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from child import ended, run, start
from tiny import adapter, tiny_model, write

ROUNDS = 20


def test_sigterm_in_the_middle_of_a_load(tmp_path: Path) -> None:
    """Where it is an exception, nothing is half done, however often; by default it ends the process at once."""
    folder = write(adapter(tiny_model(), 8), tmp_path / "it")
    process = start(f"""
    import signal

    class Terminated(Exception):
        pass

    def handle(*_):
        raise Terminated

    def load():
        print("loading", flush=True)
        while True:
            meteora.load_adapter("{folder}", "new")
            meteora.reload_adapter("new", "{folder}")
            meteora.unload_adapter("new")

    with meteora.routing("math"):
        before = logits(model, prompt())
    for number in range({ROUNDS}):
        try:
            signal.signal(signal.SIGTERM, handle)
            load()
        except Terminated:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if any(record.name == "new" for record in meteora.adapters()):
            meteora.unload_adapter("new")
        stats = meteora.stats()
        assert (stats.slots.free, stats.rank_rows.free) == (3, 56), (number, stats)
        with meteora.routing("math"):
            assert equal(logits(model, prompt()), before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    load()
    """)
    draw = random.Random(0)
    assert process.stdout is not None
    for _ in range(ROUNDS + 1):
        said = process.stdout.readline()
        time.sleep(0.002 + draw.random() * 0.01)
        process.send_signal(signal.SIGTERM)
        if said != "loading\n":
            break
    done = ended(process)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, ""), done.stderr


def test_sigterm_that_cancels_a_service(tmp_path: Path) -> None:
    """As asyncio's services do it; one load waits for room that a request never gives back."""
    folder = write(adapter(tiny_model(), 8), tmp_path / "it")
    process = start(f"""
    import asyncio, signal
    meteora.detach()
    config = MeteoraConfig(max_adapters=2, pool_rank=24, host_bytes=1 << 20, admission_timeout=600)
    meteora = meteora_rs.attach(model, config)
    meteora.load_adapter("{folder}", "held")

    async def load():
        while True:
            await meteora.aload_adapter("{folder}", "new")
            await meteora.aunload_adapter("new")

    async def waits():
        await meteora.aload_adapter(adapter(model, 24, seed=1), "large")

    async def serve():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
        tasks = [asyncio.create_task(each) for each in (load(), prefetch())]
        with meteora.routing("held"):
            tasks.append(asyncio.create_task(waits()))
            while not meteora.stats().admissions.waiting:
                await asyncio.sleep(0.01)
            print("loading", flush=True)
            await asyncio.gather(*tasks)

    async def prefetch():
        while True:
            await meteora.aprefetch(["held"])
            await asyncio.sleep(0)

    try:
        asyncio.run(serve())
    except asyncio.CancelledError:
        stats = meteora.stats()
        assert stats.slots.pending == 0 and stats.admissions.waiting == 0, stats
        print("right")
    """)
    assert process.stdout is not None and process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_attach() -> None:
    """Where no load ran at the fork, the child has its own adapters from then on; what either does, it does alone."""
    script = """
    import asyncio

    def by(name):
        with meteora.routing(name):
            return logits(model, prompt())

    before = by("math")
    asyncio.run(meteora.aload_adapter(adapter(model, 4, seed=3), "law"))  # its threads are not in the child
    child = os.fork()
    if child == 0:
        try:
            assert equal(by("math"), before)
            asyncio.run(meteora.areload_adapter("math", adapter(model, 4, seed=2)))
            meteora.load_adapter(adapter(model, 4, seed=4), "new")
            assert not equal(by("math"), before)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    for _ in range(500):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        raise SystemExit("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert equal(by("math"), before) and len(meteora.adapters()) == 2
    print("right")
    """
    done = run(script)
    assert done.returncode == 0 and "right" in done.stdout, done.stderr


def test_the_interpreter_ends_while_loads_run(tmp_path: Path) -> None:
    """Awaited ones, and one that reads files in a daemon thread; inside torch just then, torch itself would abort."""
    write(adapter(tiny_model(), 8), tmp_path / "it")
    script = f"""
    import asyncio

    async def load(name):
        while True:
            await meteora.aload_adapter("{tmp_path}/it", name)
            await meteora.aunload_adapter(name)

    async def serve():
        tasks = [asyncio.create_task(load(name)) for name in ("a", "b")]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in tasks)
        raise SystemExit

    def read():
        while True:
            meteora._registry.parse_folder("c", "{tmp_path}/it")

    threading.Thread(target=read, daemon=True).start()
    asyncio.run(serve())
    """
    done = run(script)
    assert done.returncode == 0 and done.stderr == "", done.stderr
