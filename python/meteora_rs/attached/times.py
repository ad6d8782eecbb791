"""How often each stage of a load was gone through, and how long it took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

STAGES = ("parse", "pack", "gate", "publish")
"""Reading and checking; rank rows into the pools; gate rows; making it visible."""


@dataclass(frozen=True)
class StageTimes:
    """A stage's runs, failed ones included, and their seconds: of all together, of the longest, of the last."""

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    last: float = 0.0


class Times:
    """Times by stage, and of waits for memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between loaders; requests never come here
        self._stages = {name: StageTimes() for name in (*STAGES, "wait", "arrive", "admit")}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    @contextmanager
    def waiting(self, wanted: object) -> Iterator[None]:
        """Time the block as an admission if there is anything that it waits for."""
        if not wanted:
            yield
            return
        with self.stage("admit"):
            yield

    def add(self, name: str, seconds: float) -> None:
        """Count one run of a stage."""
        with self._lock:
            old = self._stages[name]
            self._stages[name] = replace(
                old,
                count=old.count + 1,
                seconds=old.seconds + seconds,
                longest=max(old.longest, seconds),
                last=seconds,
            )

    def get(self) -> dict[str, StageTimes]:
        """The times until now; besides the stages `wait` for memory, `arrive` from the host, `admit` all of that."""
        with self._lock:
            return dict(self._stages)
