"""Who holds adapters is listed, and what was never closed is found, logged and released."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import logging
import threading
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.errors import MeteoraError
from tiny import equal, logits, prompt

IDS = prompt()


def held(meteora: Meteora) -> list[tuple[str, list[str]]]:
    return [(each.what, [name for name, _ in each.adapters]) for each in meteora.stats().held]


def test_blocks_are_listed_with_what_they_hold(loaded: Meteora) -> None:
    assert held(loaded) == []
    with loaded.routing("math"):
        with loaded.routing([Auto(only=["law"]), "__base__", "sql"]), loaded.trace():
            assert held(loaded) == [("routing", ["math"]), ("routing", ["law", "sql"]), ("trace", ["law", "sql"])]
        (each,) = loaded.stats().held
        assert each.open and each.thread == threading.current_thread().name and each.task is None and 0 <= each.age < 60
        assert each.adapters == (("math", loaded.adapter("math").generation),)
    assert held(loaded) == []
    seen: list[Any] = []
    handle = loaded.model.model.layers[1].register_forward_pre_hook(lambda *_: seen.extend(held(loaded)))
    logits(loaded.model, IDS)
    loaded.model.generate(IDS, max_new_tokens=1)
    handle.remove()
    everything = ["math", "law", "sql"]
    assert seen == [("forward", everything), ("generate", everything)]


def test_graphs_hold_until_they_are_gone(loaded: Meteora) -> None:
    embedded = loaded.model.get_input_embeddings()(IDS).detach().requires_grad_()
    with loaded.routing("math"):
        loss = loaded.model(inputs_embeds=embedded).logits.sum()
    assert held(loaded) == [("backward", ["math"])]
    assert not loaded.unload_adapter("math")
    loss.backward()
    del loss
    gc.collect()
    assert held(loaded) == []
    assert loaded.stats().slots.held == 0


def test_a_block_that_is_forgotten_is_closed(loaded: Meteora, caplog: pytest.LogCaptureFixture) -> None:
    before = logits(loaded.model, IDS)
    block = loaded.routing("math")
    block.__enter__()
    assert not equal(logits(loaded.model, IDS), before)
    with caplog.at_level(logging.WARNING, "meteora_rs"):
        del block
    assert "a routing block of thread 'MainThread' was never closed: it is closed" in caplog.text
    assert held(loaded) == [] and equal(logits(loaded.model, IDS), before)


def test_a_thread_that_dies_inside_a_block(loaded: Meteora, caplog: pytest.LogCaptureFixture) -> None:
    """Even though somebody keeps the block itself."""
    blocks = []

    def die() -> None:
        blocks.append(loaded.routing("math"))
        blocks[0].__enter__()
        assert held(loaded) == [("routing", ["math"])]

    thread = threading.Thread(target=die, name="dying")
    with caplog.at_level(logging.WARNING, "meteora_rs"):
        thread.start()
        thread.join()
    assert held(loaded) == []
    assert "block of thread 'dying' was never closed: its thread or task has ended, and its adapters" in caplog.text
    assert loaded.unload_adapter("math")
    with caplog.at_level(logging.WARNING, "meteora_rs"):
        caplog.clear()
        blocks.clear()
    assert caplog.text == ""


def test_a_task_that_ends_inside_a_block(loaded: Meteora, caplog: pytest.LogCaptureFixture) -> None:
    blocks = []

    async def leave_open() -> None:
        blocks.append(loaded.routing("law"))
        blocks[0].__enter__()

    async def main() -> None:
        await asyncio.create_task(leave_open(), name="careless")

    with caplog.at_level(logging.WARNING, "meteora_rs"):
        asyncio.run(main())
        gc.collect()
    assert "task 'careless' was never closed" in caplog.text
    assert held(loaded) == []


def test_cancelled_and_failed_tasks_release(loaded: Meteora, caplog: pytest.LogCaptureFixture) -> None:
    async def wait() -> None:
        with loaded.routing("math"):
            await asyncio.Event().wait()

    async def main() -> None:
        tasks = [asyncio.create_task(wait(), name=f"task-{i}") for i in range(3)]
        await asyncio.sleep(0)
        assert [each.task for each in loaded.stats().held] == ["task-0", "task-1", "task-2"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert held(loaded) == []

    asyncio.run(main())
    with pytest.raises(ZeroDivisionError), loaded.routing("math"):
        raise ZeroDivisionError
    assert held(loaded) == [] and caplog.text == ""


def test_blocks_closed_out_of_order(loaded: Meteora) -> None:
    auto = logits(loaded.model, IDS)
    outer, inner = loaded.routing("math"), loaded.routing("law")
    outer.__enter__()
    inner.__enter__()
    law = logits(loaded.model, IDS)
    outer.__exit__(None, None, None)
    assert equal(logits(loaded.model, IDS), law)
    inner.__exit__(None, None, None)
    assert equal(logits(loaded.model, IDS), auto)
    assert held(loaded) == []


def test_a_copied_context_keeps_only_what_is_in_force(loaded: Meteora) -> None:
    with loaded.routing("math"), loaded.routing("law"):
        copied = contextvars.copy_context()
    assert held(loaded) == [("routing", ["law"])]
    assert not loaded.stats().held[0].open
    assert copied.run(logits, loaded.model, IDS) is not None
    del copied
    assert held(loaded) == []


def test_a_function_may_be_routed(loaded: Meteora) -> None:
    @loaded.routing("math")
    def run() -> torch.Tensor:
        return logits(loaded.model, IDS)

    with loaded.routing("math"):
        expected = logits(loaded.model, IDS)
    assert equal(run(), expected) and equal(run(), expected)
    assert json.dumps(loaded.stats().to_dict())


def test_an_error_that_is_kept_holds_nothing(loaded: Meteora) -> None:
    x = loaded.model.get_input_embeddings()(IDS).detach()
    with pytest.raises(MeteoraError) as kept:
        torch.func.grad(lambda x: loaded.model(inputs_embeds=x).logits.sum())(x)
    assert "reverse-mode" in str(kept.value)
    assert loaded.unload_adapter("math", wait=0).memory_free
