"""Routes hold inside their block, for their thread or task alone."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora, Mix, Route
from meteora_rs.routing import plan as plans
from tiny import equal, logits, prompt
from torch import Tensor

ROUTES: list[Route] = [Auto(), "math", Mix({"math": 0.7, "law": 0.4}), "__base__", Auto(only=["law", "sql"])]


def routed(meteora: Meteora, routes: Any, ids: Tensor) -> Tensor:
    with meteora.routing(routes):
        return logits(meteora.model, ids)


def test_blocks_nest_and_end(loaded: Meteora) -> None:
    ids = prompt()
    by_name = {name: routed(loaded, name, ids) for name in ("math", "law")}
    auto = logits(loaded.model, ids)
    with loaded.routing("math"):
        with loaded.routing("law"):
            assert equal(logits(loaded.model, ids), by_name["law"])
        assert equal(logits(loaded.model, ids), by_name["math"])
        with pytest.raises(ZeroDivisionError), loaded.routing("law"):
            raise ZeroDivisionError
        assert equal(logits(loaded.model, ids), by_name["math"])
    assert equal(logits(loaded.model, ids), auto)


def test_threads_have_routes_of_their_own(loaded: Meteora) -> None:
    ids = prompt()
    expected = {str(route): routed(loaded, route, ids) for route in ROUTES}
    start, wrong = threading.Barrier(len(ROUTES)), []

    def work(route: Route) -> None:
        start.wait()
        for _ in range(5):
            with loaded.routing(route):
                if not equal(logits(loaded.model, ids), expected[str(route)]):
                    wrong.append(route)

    threads = [threading.Thread(target=work, args=(route,)) for route in ROUTES]
    with loaded.routing("math"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_new_thread_begins_with_the_default_or_with_a_copied_context(loaded: Meteora) -> None:
    ids, seen = prompt(), []
    auto, math = logits(loaded.model, ids), routed(loaded, "math", ids)
    with loaded.routing("math"):
        copied = contextvars.copy_context()
        for run in (lambda f: f(), copied.run):
            thread = threading.Thread(target=run, args=(lambda: seen.append(logits(loaded.model, ids)),))
            thread.start()
            thread.join()
    assert equal(seen[1], math)
    assert equal(seen[0], auto) or equal(seen[0], math)  # from 3.14 on threads may inherit the context


def test_tasks_have_routes_of_their_own(loaded: Meteora) -> None:
    ids = prompt()
    expected = {str(route): routed(loaded, route, ids) for route in ROUTES}

    async def work(route: Route) -> bool:
        with loaded.routing(route):
            good = True
            for _ in range(3):
                await asyncio.sleep(0)
                good &= equal(logits(loaded.model, ids), expected[str(route)])
                good &= equal(await asyncio.to_thread(logits, loaded.model, ids), expected[str(route)])
            return good

    async def main() -> list[bool]:
        return await asyncio.gather(*(work(route) for route in ROUTES))

    assert all(asyncio.run(main()))


def test_each_stream_reads_a_copy_of_its_own(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = 1
    monkeypatch.setattr(plans, "copied", lambda tensor, place: tensor.clone())
    monkeypatch.setattr(plans, "current_stream", lambda place: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: stream == 3)
    loaded._context._add_place(0)
    with loaded.routing("math"):
        plan = loaded._context.current()
        first = plan.on(0)
        assert plan.on(0) is first and torch.equal(first.records, plan.routes)
        stream = 2
        assert plan.on(0) is plan.on(0) is not first
        stream = 3  # a capture launches what reads its routes elsewhere
        assert plan.on(0) is first
