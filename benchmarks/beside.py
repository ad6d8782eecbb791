"""Decode steps while something else happens beside them: nothing, loads, or a core that is merely busy."""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.timing import PROMPT, decode_step

Beside = Callable[[], None]
"""One act; it is repeated once a second while the steps run."""


@contextmanager
def every_second(act: Beside, took: list[float]) -> Iterator[None]:
    """Run `act` in a thread of its own, once a second, while the block runs; notes how long each took, in ms."""
    stop = threading.Event()

    def work() -> None:
        torch.set_num_threads(1)
        while not stop.wait(max(0.0, 1.0 - (took[-1] / 1e3 if took else 0.0))):
            start = time.perf_counter()
            act()
            took.append((time.perf_counter() - start) * 1e3)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
