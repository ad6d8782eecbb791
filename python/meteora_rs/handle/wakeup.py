"""Waiting for something to happen in some folders: inotify where there is one, else the time alone."""

from __future__ import annotations

import ctypes
import os
import select
import sys
from pathlib import Path

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
EVENTS = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
IN_NONBLOCK, IN_CLOEXEC = os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0)


class Wakeup:
    """Wakes whoever waits when a followed folder's entries change; says only that, not what has changed."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._events = self._libc.inotify_init1(IN_NONBLOCK | IN_CLOEXEC) if self._libc is not None else -1
        self._woken, self._wake = os.pipe()

    def follow(self, folder: Path) -> None:
        """Follow a folder; one that is followed already, or can't be (too many), changes nothing."""
        if self._libc is not None and self._events >= 0:
            self._libc.inotify_add_watch(self._events, os.fsencode(folder), EVENTS)

    def wait(self, seconds: float) -> None:
        """Wait for an event, `close`, or the time to be over."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._events >= 0:
            poll.register(self._events, select.POLLIN)
        if any(descriptor == self._events for descriptor, _ in poll.poll(seconds * 1000)):
            os.read(self._events, 1 << 16)

    def close(self) -> None:
        """Wake who waits, now and ever after."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def __del__(self) -> None:
        self.close()
        for descriptor in (self._woken, self._events):
            if descriptor >= 0:
                os.close(descriptor)
