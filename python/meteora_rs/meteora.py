"""An attached model: load adapters, route requests, look at what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from meteora_rs.context import Plan
from meteora_rs.handle.loading import Loading
from meteora_rs.handle.record import AdapterRecord
from meteora_rs.routes import Auto, Route
from meteora_rs.trace import Trace

__all__ = ["AdapterRecord", "Meteora"]


class Meteora(Loading):
    """The handle that `attach` returns; one for each model."""

    def stats(self) -> dict[str, Any]:
        """Slots, rank rows and pages (total, live, pending, held by running requests, free), and bytes reserved."""
        buffers = [buffer for site in self.sites for buffer in site.buffers()]
        reserved = sum(buffer.numel() * buffer.element_size() for buffer in buffers)
        live = sum(record.bytes for record in self.adapters())
        return {**self._registry.stats(), "bytes_reserved": reserved, "bytes_live": live}

    @contextmanager
    def routing(
        self, routes: Route | Sequence[Route], *, top_k: int | None = None, temperature: float | None = None
    ) -> Iterator[None]:
        """Route what runs inside the block: one route for all rows, or a list with one for each row.

        A route is `Auto()`, `Auto(only=[…])`, an adapter's name, `Mix({name: weight})` or `"__base__"`. The block
        sees the adapters that are live now until it ends. Holds for this thread or asyncio task; blocks nest.
        `top_k` and `temperature` replace the config's inside the block.

        Raises:
            ValueError: `top_k` or `temperature` is out of range.
            AdapterNotFoundError: a name that no live adapter has.
            AdapterInUseError: an adapter that is being reloaded in its own place; try again (see `reload_adapter`).
            RouteError: an empty list, a weight that is negative or not finite, an `only` that names an adapter
                without a gate, or (in the forward pass) rows that do not match the batch.
        """
        self._require_attached()
        changed: dict[str, Any] = {"top_k": top_k, "temperature": temperature}
        replace(self.config, **{key: value for key, value in changed.items() if value is not None})  # checks them
        listed: Sequence[Route] = [routes] if isinstance(routes, str) or not isinstance(routes, Sequence) else routes
        with self._context.enter(self._context.plan(listed, self._context.current().trace, top_k, temperature)):
            yield

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record, for what runs inside the block, which adapter with which weight served each token and linear.

        Like `routing()`, the block sees the adapters that are live now until it ends, and holds them: their rows are
        not free, and gates can't change, before that. The `Trace` itself holds none.
        """
        self._require_attached()
        trace = Trace([site.path for site in self.sites])
        current = self._context.current()
        default = self._context.is_default()
        plan = self._context.plan([Auto()], trace) if default else Plan(current.native, trace)
        with self._context.enter(plan):
            yield trace

    def save_pretrained(self, folder: str | Path, *, statistics: bool = True) -> None:
        """Write adapters, gates and config as a bundle that `attach_pretrained` reads (see `meteora_rs.bundle`).

        With `statistics` also what the last fit kept, if there was one: `load_adapter(gate=[…])` needs it. Requests run
        on meanwhile; loads and unloads wait.

        Raises:
            MeteoraError: `folder` exists and is no bundle, or holds more than one; it is, or holds, the working
                directory; or this handle was detached.
            OSError: it can't be written.
        """
        from meteora_rs.bundle import save_bundle

        with self._writer:  # what is listed must be there when it is read
            self._require_attached()
            save_bundle(self, folder, statistics=statistics)

    def detach(self) -> None:
        """Give the model back, bit for bit what it was; this handle is of no use afterwards."""
        with self._writer:
            self._patch.remove()
