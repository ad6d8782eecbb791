"""Requests: which adapters what runs inside a block may use, and a look at which it used."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ContextDecorator, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from meteora_rs.errors import MeteoraError
from meteora_rs.routes import Auto, Route, to_native
from meteora_rs.routing.block import Block
from meteora_rs.routing.trace import Trace
from meteora_rs.serving.served import Served
from meteora_rs.tiers.turn import WouldWaitError

Decorated = TypeVar("Decorated", bound="Callable[..., Any]")


class Routing(ContextDecorator):
    """Routes in force from the entrance of the block, where they are looked up, to its exit; entered once."""

    def __init__(
        self,
        meteora: Served,
        routes: Route | Sequence[Route],
        top_k: int | None,
        temperature: float | None,
        confine: bool,
    ) -> None:
        self._meteora, self._routes, self._confine = meteora, routes, confine
        self._top_k, self._temperature = top_k, temperature
        self._block: Block | None = None

    def __call__(self, function: Decorated) -> Decorated:
        """Decorate a function or a coroutine function: the block is open while its body runs.

        Raises:
            TypeError: a generator function, whose body runs in pieces in whatever context asks for the next.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"routing() can't decorate the generator function {function!r}: open the block in its body")
        if not inspect.iscoroutinefunction(function):
            return super().__call__(function)

        @functools.wraps(function)
        async def routed(*args: Any, **kwargs: Any) -> Any:
            async with self._recreate_cm():
                return await function(*args, **kwargs)

        return routed  # type: ignore[return-value]

    def __enter__(self) -> None:
        """Look the routes up and put them in force."""
        meteora = self._meteora
        meteora._require_attached()
        if self._block is not None:
            raise MeteoraError("a routing() block is entered once; call routing() again")
        changed: dict[str, Any] = {"top_k": self._top_k, "temperature": self._temperature}
        replace(meteora.config, **{key: value for key, value in changed.items() if value is not None})  # checks them
        context = meteora._context
        trace = context.current().trace  # the default plan has none
        plan = context.plan(self._listed(), trace, self._top_k, self._temperature, self._confine)
        self._block = context.enter(plan, "routing")
        self._block.__enter__()

    async def __aenter__(self) -> None:
        """The same where it may have to wait for room: other tasks run meanwhile."""
        if self._meteora.tiers is None:
            return self.__enter__()
        while True:
            parts = [to_native(route) for route in self._listed()]
            admission = self._meteora._admit(parts, self._meteora._context.around())
            await admission.enter_async()
            try:
                return self.__enter__()  # finds all there: what was missing is brought in, and this has the turn
            except WouldWaitError:  # nothing was missing, and something has gone since
                continue
            finally:
                admission.leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Put the routes before in force again."""
        self.__exit__(kind, error, where)

    def _listed(self) -> Sequence[Route]:
        routes = self._routes
        return [routes] if isinstance(routes, str) or not isinstance(routes, Sequence) else routes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Put the routes before in force again."""
        if self._block is not None:
            self._block.__exit__()

    def _recreate_cm(self) -> Routing:
        """For each call of a function that this decorates, a block of its own."""
        return Routing(self._meteora, self._routes, self._top_k, self._temperature, self._confine)


class Requests(Served):
    """Routes for what runs inside a block."""

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
