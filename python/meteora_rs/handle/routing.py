"""The block of `Meteora.routing`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from meteora_rs.block import Block
from meteora_rs.errors import MeteoraError
from meteora_rs.handle.attached import Attached
from meteora_rs.routes import Route, to_native
from meteora_rs.tiers.turn import WouldWaitError

Decorated = TypeVar("Decorated", bound="Callable[..., Any]")


class Routing(ContextDecorator):
    """Routes in force from the entrance of the block, where they are looked up, to its exit; entered once."""

    def __init__(
        self,
        meteora: Attached,
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
        tiers = self._meteora.tiers
        if tiers is None:
            return self.__enter__()
        while True:
            parts = [to_native(route) for route in self._listed()]
            admission = tiers.admission(parts, self._meteora._context.around())
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
