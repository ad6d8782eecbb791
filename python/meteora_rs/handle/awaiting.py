"""The same changes for an event loop: awaited, and cancelled at any stage without a trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from meteora_rs.attached.record import AdapterRecord
from meteora_rs.files.source import AdapterSource
from meteora_rs.gate_kinds import GateSource
from meteora_rs.handle.loading import Loading
from meteora_rs.serving.cancel import Cancellation
from meteora_rs.serving.load import Load
from meteora_rs.serving.unloading import Unloaded

LONGEST_PAUSE = 0.02
"""Seconds between two looks for memory."""


class Awaiting(Loading):
    """Loads run on threads of their own; the last step, which publishes, on the loop's, between two awaits.

    So a call that was cancelled never publishes afterwards, and one that has published returns. Cancelling a load
    returns at once while it reads files (the thread finds out when it comes back from them); where a place has been
    taken, when it has been given back, which takes a moment. Only a reload that has begun to write over its own place
    can't be taken back: it is published, and then the cancellation goes on.
    """

    async def aload_adapter(
        self,
        source: AdapterSource,
        adapter_name: str,
        *,
        gate: GateSource = "arrow",
        revision: str | None = None,
        tokenizer: Any = None,
    ) -> AdapterRecord:
        """As `load_adapter`, without holding up the event loop.

        Raises:
            asyncio.CancelledError: cancelled; nothing has happened. Others as `load_adapter`.
        """
        return await self._loaded(self._load(source, adapter_name, gate, revision, tokenizer, reload=False))

    async def areload_adapter(
        self,
        adapter_name: str,
        source: AdapterSource,
        *,
        gate: GateSource | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
        if_generation: int | None = None,
    ) -> AdapterRecord:
        """As `reload_adapter`, without holding up the event loop.

        Raises:
            asyncio.CancelledError: cancelled; the old weights are live. Others as `reload_adapter`.
        """
        load = self._load(source, adapter_name, gate, revision, tokenizer, reload=True, if_generation=if_generation)
        return await self._loaded(load)

    async def aunload_adapter(self, adapter_name: str, *, wait: float | None = None) -> Unloaded:
        """As `unload_adapter`; other tasks run while it waits.

        Raises:
            asyncio.CancelledError: cancelled while it waited; the adapter is unloaded. Others as `unload_adapter`.
        """
        retired = self._retire(adapter_name, wait)
        if retired is None:
            return Unloaded(True, ())
        if wait is not None:
            with self.times.stage("wait"):
                end, pause = time.monotonic() + wait, 0.001
                while not retired.wait(0) and (left := end - time.monotonic()) > 0:
                    await asyncio.sleep(min(pause, left))
                    pause = min(2 * pause, LONGEST_PAUSE)
        return self._unloaded(retired)

    async def _loaded(self, load: Load) -> AdapterRecord:
        cancellation = Cancellation()
        await self._in_thread(lambda _: load.check(), cancellation)
        load.warn()
        await self._in_thread(load.prepare, cancellation)
        return load.publish()

    async def _in_thread(self, stage: Callable[[Cancellation], Load], cancellation: Cancellation) -> None:
        """Go through a stage of a load on a thread of the loads'."""
        future = asyncio.get_running_loop().run_in_executor(self._loaders, _unless_asked, stage, cancellation)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            if cancellation.cancel():
                await _ended(future)
                if future.exception() is None and (stopped := future.result()) is not None:
                    stopped.cancelled()
            else:
                future.add_done_callback(
                    lambda done: done.cancelled() or done.exception()
                )  # that it stopped is no news
            raise


def _unless_asked(stage: Callable[[Cancellation], Load], cancellation: Cancellation) -> Load | None:
    """None if it has failed after it was cancelled: nobody asks for that error, and a loop that closes just then would
    say so."""
    try:
        return stage(cancellation)
    except Exception:
        if cancellation.asked:
            return None
        raise


async def _ended(future: asyncio.Future[Load | None]) -> None:
    """Wait for the end of what is about to end, whoever else cancels meanwhile."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
