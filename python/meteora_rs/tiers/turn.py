"""A place in the queue of those who need room on the device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from meteora_rs import _native
from meteora_rs.attached.attached import Attached
from meteora_rs.errors import CapacityError

SLICE = 0.05
"""Seconds of a wait between two looks at signals (Ctrl-C)."""

Made = TypeVar("Made")


class WouldWaitError(CapacityError):
    """A wait that would stop an event loop."""


class Turn:
    """Taken at the first attempt, given up by `leave`; who is first alone makes room."""

    def __init__(self, meteora: Attached, native: _native.Tiers, what: str) -> None:
        self._meteora, self._native, self._what = meteora, native, what
        self._ticket: _native.Ticket | None = None
        self._began = time.monotonic()
        self._shortage, self._seen = "", 0

    def come(self) -> bool:
        """Whether it is this one's turn."""
        if self._ticket is None:
            self._ticket = self._native.join()
        return self._ticket.wait(0)

    def make_room(self, make: Callable[[], tuple[Made | None, str]]) -> Made | None:
        """What `make` reserves; None: there is no room yet.

        Raises:
            CapacityError: it will never fit.
        """
        meteora = self._meteora
        self._seen = meteora._registry.freed()
        with meteora._writer:
            meteora._require_attached()
            with meteora._context.without_default():  # it reaches all that may go
                made, self._shortage = make()
        return made

    def wait(self) -> None:
        """Wait for something to change: the turn to come, or rows to come back.

        Raises:
            CapacityError: the time is over.
            WouldWaitError: this is an event loop, which it would stop.
        """
        if in_event_loop():
            advice = "to wait for it in an event loop, write 'async with' for the routing() block, or await aprefetch()"
            raise WouldWaitError(f"{self.refusal()}; {advice}")
        self.check_time()
        assert self._ticket is not None
        seconds = max(0.0, min(SLICE, self._left()))
        if self._ticket.wait(seconds):
            self._meteora._registry.wait_freed(self._seen, seconds)

    def check_time(self) -> None:
        """Stop here if it has waited for too long.

        Raises:
            CapacityError: it has.
        """
        if self._left() <= 0:
            raise CapacityError(self.refusal())

    def leave(self) -> None:
        """Give up the place in the queue."""
        if self._ticket is not None:
            self._ticket.leave()

    def _left(self) -> float:
        return self._began + self._meteora.config.admission_timeout - time.monotonic()

    def refusal(self) -> str:
        """What is short, for how long it was waited for, and who holds the room."""
        waited, limit = time.monotonic() - self._began, self._meteora.config.admission_timeout
        shortage = self._shortage or f"adapter {self._what}: requests that came before wait for room"
        text = f"{shortage}; waited {waited:.1f} s (admission_timeout={limit:g})"
        if not self._meteora._context.is_default():  # a tenant's block: others' names are not its business
            return text
        pinned = [record.name for record in self._meteora.adapters() if record.pinned or record.kept]
        holders = [lease.describe() for lease in self._meteora._context.leases.living()]
        held = [
            f"{', '.join(name for name, _ in each.adapters)} ({each.what} in {each.thread}, {each.age:.1f} s)"
            for each in holders
            if each.adapters
        ]
        return f"{text}; pinned: {', '.join(pinned) or 'none'}; held: {'; '.join(held) or 'none'}"


def in_event_loop() -> bool:
    """Whether this thread runs one now."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
