"""Is everybody still moving, and does memory stay flat?"""

from __future__ import annotations

import faulthandler
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

PATIENCE = 60.0
"""Seconds without progress of one worker after which all threads are dumped."""
STDERR = 2
PAGE_BYTES = 4096


class Watchdog:
    """Dumps the stacks of all threads where a worker stands still; also where the interpreter itself does."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def look(self, progress: Mapping[str, int]) -> None:
        """Take note of each worker's count.

        Raises:
            TimeoutError: a worker's count has not grown for `PATIENCE` seconds.
        """
        # A thread of C's own: it also fires when nobody gets the GIL any more.
        faulthandler.dump_traceback_later(2 * PATIENCE, exit=True, file=STDERR)
        now = time.monotonic()
        for name, count in progress.items():
            if count != self._seen.get(name, (-1, 0.0))[0]:
                self._seen[name] = (count, now)
            elif now - self._seen[name][1] > PATIENCE:
                faulthandler.dump_traceback(file=STDERR, all_threads=True)
                raise TimeoutError(f"{name} stands still at {count}; all threads' stacks are on stderr")

    def close(self) -> None:
        """Stop watching."""
        faulthandler.cancel_dump_traceback_later()


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def growth(samples: list[tuple[float, int]]) -> tuple[float, float]:
    """Growth of the samples `(seconds, bytes)` over their span by the line of least squares, and its noise.

    Noise is the standard deviation about the line, in bytes.
    """
    seconds, sizes = [at for at, _ in samples], [float(size) for _, size in samples]
    slope, start = statistics.linear_regression(seconds, sizes)
    noise = statistics.pstdev(size - (start + slope * at) for at, size in samples)
    return slope * (seconds[-1] - seconds[0]), noise
