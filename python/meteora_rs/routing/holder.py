"""What holds the plan in force in one thread or task."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

from meteora_rs.routing.leases import Lease
from meteora_rs.routing.plan import Plan


class Holder:
    """A mutable cell with the plan in force; compiled graphs read through it, so no branch and no guard on it."""

    __slots__ = ("__weakref__", "_before", "binds", "ended", "inside", "lease", "plan")

    def __init__(
        self, plan: Plan, inside: bool = False, lease: Lease | None = None, before: Holder | None = None
    ) -> None:
        self.plan = plan
        self.lease = lease  # None for the default plan, which no block ends: it holds its adapters itself
        self.inside = inside  # inside generate() or forward(): rows have been checked, and may have been repeated
        # In force again when this one's block ends. Weak: who copies a context keeps what is in force, not what was.
        self._before = None if before is None else weakref.ref(before)
        self.ended = False
        self.binds = False  # ended and confined: a task that began inside goes back to it, not to what was around it

    def before(self) -> Holder | None:
        """The one before that has not ended, or binds."""
        return next((holder for holder in self._around() if not holder.ended or holder.binds), None)

    def open(self) -> list[Holder]:
        """This one and those around it that have not ended."""
        return [holder for holder in (self, *self._around()) if not holder.ended]

    def _around(self) -> Iterator[Holder]:
        holder = self
        while holder._before is not None and (before := holder._before()) is not None:
            yield before
            holder = before
