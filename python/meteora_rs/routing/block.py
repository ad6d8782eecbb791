"""From an entrance to an exit: a plan in force in one thread or task."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol

from meteora_rs.routing.graph_routes import GraphRoutes
from meteora_rs.routing.holder import Holder
from meteora_rs.routing.plan import Plan


class Scope(Protocol):
    """Where plans are in force: what a block changes from its entrance to its exit."""

    var: ContextVar[Holder]
    default: Holder
    """In force outside of all blocks."""
    graph_routes: GraphRoutes


class Block:
    """Puts a plan in force in this thread or task from its entrance to its exit; entered once.

    The context holds the adapters, not the block: whatever runs in a copy of the context keeps them, and where a
    block is never closed they go with the thread or task. A block that is forgotten in its own context is closed then
    and there, with a warning.
    """

    __slots__ = ("_before", "_context", "_holder", "_inside", "_plan", "_what")

    def __init__(self, context: Scope, plan: Plan, what: str, inside: bool = False) -> None:
        self._context, self._plan, self._what, self._inside = context, plan, what, inside
        self._holder: weakref.ref[Holder] | None = None
        self._before: Holder | None = None  # for as long as this block is open

    def __enter__(self) -> Plan:
        """Put the plan in force.

        Raises:
            MeteoraError: nobody holds the plan's adapters any more, or see `GraphRoutes.enter`.
        """
        var, plan = self._context.var, self._plan
        self._before = var.get()
        holder = Holder(plan, self._inside, plan.lease(self._what), self._before)
        if self._what == "routing":
            try:
                self._context.graph_routes.enter(holder, self._before)
            except BaseException:  # whose traceback knows this block, and shall hold nothing
                self._context.graph_routes.leave(holder, self._before)
                self._give_up(holder)
                raise
        plan.native.release()
        self._holder = weakref.ref(holder)
        var.set(holder)
        return plan

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        where: TracebackType | None = None,
    ) -> None:
        """Put the plan before in force again."""
        holder = self._holder() if self._holder is not None else None
        if holder is not None:
            self._close(holder)
        self._holder = self._before = None

    def __del__(self) -> None:
        ref: weakref.ref[Holder] | None = getattr(self, "_holder", None)
        holder = ref() if ref is not None else None
        # In another thread nothing can be said of the context that it was entered in: it ends with that.
        if holder is not None and self._context.var.get() is holder:
            if holder.lease is not None:
                holder.lease.warn("it is closed, and its adapters are released,")
            self._close(holder)

    def _give_up(self, holder: Holder) -> None:
        if holder.lease is not None:
            holder.lease.closed = True
        holder.ended, holder.lease, self._before = True, None, None
        self._plan.native.release()

    def _close(self, holder: Holder) -> None:
        holder.ended = True
        if holder.lease is not None:
            holder.lease.closed = True
        if self._context.var.get() is holder:
            # In its own context nothing leads back to it now: whatever has it as its before is in a copy. A block that
            # is closed under another that is open has that one lead back to it here, and can't bind.
            holder.binds = holder.plan.native.confines
            after = holder.before() or self._context.default
            self._context.var.set(after)
            self._context.graph_routes.leave(holder, after)
