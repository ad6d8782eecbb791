"""Stopping a load that runs in another thread."""

from __future__ import annotations

import threading

from meteora_rs import _native


class Stopped(Exception):
    """Raised in the thread of a load that has been cancelled; never seen outside it."""


class Cancellation:
    """Whether a load shall stop, and whether it has taken something that it must give back first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._holding = False
        self._reservation: _native.Reservation | None = None

    @property
    def asked(self) -> bool:
        """Whether it shall stop."""
        return self._set

    def check(self) -> None:
        """Stop here if that was asked for.

        Raises:
            Stopped: it was.
        """
        if self._set:
            raise Stopped

    def hold(self) -> None:
        """From here on something is taken: whoever cancels waits until it has been given back.

        Raises:
            Stopped: cancelled before.
        """
        with self._lock:
            self.check()
            self._holding = True

    def writing(self, reservation: _native.Reservation) -> None:
        """Let `cancel` stop the writing to this reservation midway."""
        self._reservation = reservation
        self.check()

    def cancel(self) -> bool:
        """Ask to stop; says whether something is held that will be given back in a moment."""
        with self._lock:
            self._set = True
            if self._reservation is not None:
                self._reservation.cancel()
            return self._holding
