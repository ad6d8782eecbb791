"""Thousands of loads and unloads beside one running generation."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import meteora_rs
import torch
from meteora_rs import MeteoraConfig
from tiny import adapter, tiny_model, write

from soak.requests import Answer, Request, answer


def cycles(folder: Path, count: int) -> tuple[float, int]:
    """Seconds for `count` loads and unloads of one adapter, and the answers that another gave meanwhile.

    Raises:
        AssertionError: an answer differs from the first, or rows were left behind.
    """
    meteora = meteora_rs.attach(tiny_model(), MeteoraConfig(max_adapters=3, pool_rank=24))
    source = write(adapter(meteora.model, 8, seed=1), folder / "comes and goes")
    meteora.load_adapter(adapter(meteora.model, 4, seed=2), "stays")
    answers: list[Answer] = []
    stop = threading.Event()

    def generate() -> None:
        torch.set_num_threads(1)
        while not stop.is_set():
            answers.append(answer(meteora, Request("stays", seed=0)))

    thread = threading.Thread(target=generate, daemon=True)
    thread.start()
    start = time.perf_counter()
    try:
        for _ in range(count):
            while meteora.stats().slots.free == 0:  # running requests hold those of before
                time.sleep(0.0005)
            meteora.load_adapter(source, "new", gate="none")
            meteora.unload_adapter("new")
    finally:
        seconds = time.perf_counter() - start
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert len({found.digest for found in answers}) == 1
    stats = meteora.stats()
    assert stats.slots.free == 2 and stats.rank_rows.free == 16, stats
    return seconds, len(answers)
