"""A short soak in every test run, of SOAK_SECONDS (120) over both configs; `make soak` is the long one."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import meteora_rs
import pytest
from soak.accounts import LOOKS, Accounts
from soak.alone import Alone
from soak.cycles import cycles
from soak.requests import Answer, Request
from soak.run import POOLS, TIERS, Soak
from soak.watch import PATIENCE, Watchdog, growth
from tiny import adapter, tiny_model

SECONDS = float(os.environ.get("SOAK_SECONDS", "120")) / 2
LIMIT = SECONDS + 240
"""Of a test: a busy machine has to see enough, and what is left to be checked comes after the end."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What the sums find given back was given back by who had it, and not by the garbage collector."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.timeout(LIMIT)
def test_answers_are_what_they_are_alone(tmp_path: Path) -> None:
    changes = {"load", "reload", "unload", "set_gates", "load broken", "aload", "aload: cancelled"}

    def enough(soak: Soak) -> bool:
        return soak.alone.checked > 50 and soak.interrupted["fault"] > 0 and changes <= soak.tried()

    report = Soak(tmp_path, seed=1).run(SECONDS, enough=enough)
    assert report.answers > 50 and report.interrupted > 0
    assert changes <= set(report.changes)
    assert report.rss_growth <= max(32 << 20, 3 * report.rss_noise)


@pytest.mark.timeout(LIMIT)
@pytest.mark.usefixtures("uncollected")
def test_answers_are_what_they_are_alone_while_adapters_come_and_go(tmp_path: Path) -> None:
    changes = {"register", "prefetch", "reload", "unload", "set_gates", "aload"}

    def tried(found: Iterable[str]) -> set[str]:
        return {what.partition(":")[0] for what in found}

    def enough(soak: Soak) -> bool:
        return soak.alone.checked > 20 and soak.meteora.stats().evictions > 5 and changes <= tried(soak.tried())

    report = Soak(tmp_path, seed=2, config=TIERS).run(SECONDS, enough=enough)
    assert report.answers > 20 and report.changes["evictions"] > 5
    assert changes <= tried(report.changes)


@pytest.mark.timeout(240)
def test_a_thousand_loads_beside_a_running_generation(tmp_path: Path) -> None:
    _, answers = cycles(tmp_path, 1000)
    assert answers > 1


def test_a_wrong_answer_is_noticed() -> None:
    with pytest.raises(AssertionError, match="not what it is alone"):
        Alone().check(Answer(Request("__base__", seed=0), (), b"other"))


def test_what_is_held_and_nobody_says_so_is_noticed() -> None:
    meteora = meteora_rs.attach(tiny_model(), POOLS)
    meteora.load_adapter(adapter(meteora.model, 4), "a")
    with meteora.routing("a"):
        meteora.unload_adapter("a")
        said = Accounts(meteora)
        for _ in range(2 * LOOKS):
            said.look()
    meteora.load_adapter(adapter(meteora.model, 4), "b")
    plan = meteora._context.plan(["b"], None)  # of no block: it holds, and is not listed
    meteora.unload_adapter("b")
    unsaid = Accounts(meteora)
    for _ in range(LOOKS - 1):
        unsaid.look()
    with pytest.raises(AssertionError, match="1 slots are held, and no request says so"):
        unsaid.look()
    del plan


def test_a_worker_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog, now = Watchdog(), [0.0]
    monkeypatch.setattr("soak.watch.time.monotonic", lambda: now[0])
    try:
        watchdog.look({"a": 1, "b": 1})
        now[0] = PATIENCE + 1
        with pytest.raises(TimeoutError, match="b stands still"):
            watchdog.look({"a": 2, "b": 1})
    finally:
        watchdog.close()


def test_growth_is_told_from_noise() -> None:
    size, noise = growth([(float(at), 1000 * at + 10 * (at % 2)) for at in range(101)])
    assert abs(size - 100_000) < 100 and noise < 10
