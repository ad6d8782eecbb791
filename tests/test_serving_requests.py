"""`@meteora.routing(…)` holds while the body runs, or is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from meteora_rs import Meteora
from meteora_rs.errors import AdapterNotFoundError
from tiny import equal, logits, prompt, tiny_model
from torch import Tensor


def test_a_function_and_a_coroutine_run_inside_the_block(loaded: Meteora) -> None:
    base = logits(tiny_model(), prompt())

    @loaded.routing("__base__")
    def plain(rows: int) -> Tensor:
        return logits(loaded.model, prompt(rows))

    @loaded.routing("__base__")
    async def awaited(rows: int) -> Tensor:
        """Kept."""
        await asyncio.sleep(0)
        return logits(loaded.model, prompt(rows))

    async def together() -> list[Tensor]:
        return await asyncio.gather(awaited(3), awaited(rows=3))

    assert awaited.__name__ == "awaited" and awaited.__doc__ == "Kept." and asyncio.iscoroutinefunction(awaited)
    assert all(equal(out, base) for out in [plain(3), plain(3), *asyncio.run(together())])
    assert not loaded.stats().held and not equal(logits(loaded.model, prompt()), base)


def test_a_coroutine_looks_its_routes_up_when_it_runs(loaded: Meteora) -> None:
    @loaded.routing("new")
    async def awaited() -> None: ...

    with pytest.raises(AdapterNotFoundError):
        asyncio.run(awaited())


def test_generators_are_refused(loaded: Meteora) -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def stream() -> AsyncIterator[int]:
        yield 1

    for function in (generator, stream):
        with pytest.raises(TypeError, match="open the block in its body"):
            loaded.routing("math")(function)
