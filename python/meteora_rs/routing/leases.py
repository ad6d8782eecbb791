"""Who holds adapters, since when: nothing that a request may read is rewritten while its lease lives."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import weakref
from dataclasses import dataclass

from meteora_rs import _native

logger = logging.getLogger("meteora_rs")


@dataclass(frozen=True)
class HeldSnapshot:
    """Adapters that a request holds: what `stats().held` lists.

    `what` is `routing`, `trace`, `forward`, `generate`, `training`, `layer` (weighted by a flow gate), or `backward`
    for a graph that awaits its backward pass; `age` is in seconds; `open` is False once its block has been closed: what
    keeps it then is a copy of the block's context, that of a task, thread or timer which was made inside. `adapters`
    are the names and generations that it can reach, whose memory it keeps.
    """

    what: str
    age: float
    open: bool
    thread: str
    task: str | None
    adapters: tuple[tuple[str, int], ...]


class Lease:
    """Keeps a plan's adapters in place for as long as it lives."""

    __slots__ = ("__weakref__", "_leases", "_task", "_thread", "closed", "hold", "plan", "since", "what")

    def __init__(self, leases: Leases, plan: _native.RoutePlan, what: str) -> None:
        self.hold = plan.hold()
        self.plan = plan
        self.what = what
        self.since = time.monotonic()
        self.closed = False
        """Whether its block has been closed; a graph has no end but its own."""
        self._thread = threading.current_thread().name
        self._task = _task_name()
        self._leases = leases
        leases.add(self)

    def describe(self) -> HeldSnapshot:
        """What it holds, for whom, since when."""
        adapters = tuple((name, generation) for _, name, generation, _, _ in self.plan.adapters())
        age = time.monotonic() - self.since
        return HeldSnapshot(self.what, age, not self.closed, self._thread, self._task, adapters)

    def warn(self, what_now: str) -> None:
        """Log that its block was never closed."""
        self.closed = True
        task = f", task {self._task!r}" if self._task else ""
        age = time.monotonic() - self.since
        logger.warning(
            "a %s block of thread %r%s was never closed: %s after %.1f s", self.what, self._thread, task, what_now, age
        )

    def __del__(self) -> None:
        leases = getattr(self, "_leases", None)
        if leases is None or sys.is_finalizing():  # it never came to hold anything
            return
        leases.remove(self)
        if not self.closed and self.what != "backward":
            self.warn("its thread or task has ended, and its adapters are released")


class Leases:
    """The leases on one model's adapters that live now."""

    def __init__(self) -> None:
        # Each change is one operation of a dict, so that neither taking nor giving back needs a lock.
        self._leases: dict[int, weakref.ref[Lease]] = {}

    def add(self, lease: Lease) -> None:
        """List a lease."""
        self._leases[id(lease)] = weakref.ref(lease)

    def remove(self, lease: Lease) -> None:
        """List it no more."""
        self._leases.pop(id(lease), None)

    def living(self) -> list[Lease]:
        """Those that live, oldest first."""
        found = [lease for ref in list(self._leases.values()) if (lease := ref()) is not None]
        return sorted(found, key=lambda lease: lease.since)


def _task_name() -> str | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop in this thread
        return None
    return task.get_name() if task is not None else None
