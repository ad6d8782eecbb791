"""An attached model: load adapters, route requests, look at what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meteora_rs.handle.awaiting import Awaiting
from meteora_rs.handle.gating import Gating
from meteora_rs.handle.naming import Naming
from meteora_rs.handle.record import AdapterRecord
from meteora_rs.handle.routing import Routing
from meteora_rs.handle.stats import Accounts
from meteora_rs.handle.training import Training
from meteora_rs.handle.verifying import Verifying
from meteora_rs.handle.watching import Watching
from meteora_rs.routes import Auto, Route
from meteora_rs.trace import Trace

__all__ = ["AdapterRecord", "Meteora"]


class Meteora(Awaiting, Gating, Training, Naming, Watching, Verifying, Accounts):
    """The handle that `attach` returns; one for each model."""

    def routing(
        self,
        routes: Route | Sequence[Route],
        *,
        top_k: int | None = None,
        temperature: float | None = None,
        confine: bool = False,
    ) -> Routing:
        """Route what runs inside the block: one route for all rows, or a list with one for each row.

        A route is `Auto()`, `Auto(only=[…])`, an adapter's name or alias, `Mix({name: weight})` or `"__base__"`. The
        block sees the adapters that are live when it begins until it ends. Holds for this thread or asyncio task;
        blocks nest, and the innermost one's routes are in force. `top_k` and `temperature` replace the config's inside
        the block.

        With `confine`, blocks inside reach the adapters that this one's routes reach, and no others, whatever they say:
        `Auto()` chooses among these, and what leads beyond is refused as a name, or a group, that nobody knows. The
        names are those of when the block begins, of all rows together; the base is always allowed. A block inside can
        only narrow that (docs/hot-loading.md).

        An adapter that is registered and not on the device is brought in first (see `register_adapter`); where that has
        to wait for others' requests, an event loop is held up unless the block is an `async with`.

        On a CUDA device the adapters are held until the streams that are current when the block ends have done their
        work: join work on other streams before. A CUDA graph that was captured inside such a block follows the block
        that it is replayed in (on the stream that is current at the entrance); outside of any it uses no adapter
        (docs/gpu.md).

        Raises (when the block begins):
            MeteoraError: captured graphs read another thread's or task's open block.
            CapacityError: no room for what has to be brought in within `admission_timeout`.
            ValueError: `top_k` or `temperature` is out of range.
            AdapterNotFoundError: a name that no live adapter has, or that a block around this does not reach.
            AdapterInUseError: an adapter that is being reloaded in its own place; try again (see `reload_adapter`).
            RouteError: an empty list, a weight that is negative or not finite, an unknown group, an `only` that names
                an adapter without a gate, or (in the forward pass) rows that do not match the batch.
        """
        return Routing(self, routes, top_k, temperature, confine)

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record, for what runs inside the block, which adapter with which weight served each token and linear.

        Like `routing()`, the block sees the adapters that are live now until it ends, and holds them; the `Trace`
        itself holds none. Nothing is recorded of calls of a compiled model, nor of what runs inside another `trace()`
        within this one, which records it alone.

        Raises:
            RouteError: no `routing()` is open, and the config requires one.
        """
        self._require_attached()
        trace = Trace([site.path for site in self.sites])
        self._context.check_routed()
        if self._context.is_default():
            plan = self._context.plan([Auto()], trace)
        else:
            plan = self._context.current().traced(trace)
        with self._context.enter(plan, "trace"):
            yield trace

    def save_pretrained(self, folder: str | Path, *, statistics: bool = True) -> None:
        """Write adapters, gates and config as a bundle that `attach_pretrained` reads (see `meteora_rs.bundle`).

        With `statistics` also what the last fit kept, if there was one: `load_adapter(gate=[…])` needs it. Requests,
        loads and unloads go on meanwhile; what is written is what was live or registered at the start.

        Raises:
            AdapterInUseError: an adapter is being reloaded in its own place; save again when that has ended.
            AdapterFormatError: a registered adapter had to be read again, and its files have changed.
            MeteoraError: `folder` exists and is no bundle, or holds more than one; it is, or holds, the working
                directory; or this handle was detached.
            OSError: it can't be written.
        """
        from meteora_rs.bundle import save_bundle

        self._require_attached()
        save_bundle(self, folder, statistics=statistics)

    def detach(self) -> None:
        """Give the model back, bit for bit what it was; this handle is of no use afterwards."""
        with self._writer:
            self._patch.remove()
        self._loaders.shutdown(wait=False)
        self._admitting.shutdown(wait=False)
