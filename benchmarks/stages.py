"""What a load costs, and the first token of an adapter that nobody has seen, by stage."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from meteora_rs import Meteora

from benchmarks.random_adapters import random_gates


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def warm_load(meteora: Meteora, source: Path, times: int = 40) -> dict[str, dict[str, float]]:
    """Milliseconds of a load from a warm page cache into a free slot, for each kind of gate, and of its stages."""
    result = {}
    gates: dict[str, Any] = {
        "none": "none",
        "arrow": "arrow",
        "tensors": random_gates(meteora, ["new"])["new"],
    }
    for kind, gate in gates.items():
        loads, unloads = [], []
        stages: dict[str, list[float]] = {}
        for _ in range(times + 2):
            loads.append(timed(lambda gate=gate: meteora.load_adapter(source, "new", gate=gate)))
            for stage, times_of in meteora.stats().loads.items():
                stages.setdefault(f"{stage}_ms", []).append(times_of.last * 1e3)
            unloads.append(timed(lambda: meteora.unload_adapter("new")))
        by_stage = {stage: round(statistics.median(values[2:]), 3) for stage, values in stages.items()}
        unload = round(statistics.median(unloads[2:]), 3)
        result[kind] = {**_spread(loads[2:]), **by_stage, "unload_median_ms": unload}
    return result


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(statistics.median(values), 3),
        "least_ms": round(min(values), 3),
        "p90_ms": round(statistics.quantiles(values, n=10)[8], 3),
    }


def first_token(meteora: Meteora, sources: list[Path], prompt: torch.Tensor) -> dict[str, dict[str, float]]:
    """Median milliseconds from a folder to the first token by its adapter: load, then the prompt's forward pass."""

    def stages(prepare: Callable[[Path], object]) -> dict[str, float]:
        loads, tokens = [], []
        for source in sources:
            prepare(source)
            loads.append(timed(lambda source=source: meteora.load_adapter(source, "new", gate="none")))
            with torch.inference_mode(), meteora.routing("new"):
                tokens.append(timed(lambda: meteora.model(input_ids=prompt, use_cache=True)))
            meteora.unload_adapter("new")
        load, token = statistics.median(loads), statistics.median(tokens)
        return {"load_ms": round(load, 3), "prompt_ms": round(token, 3), "first_token_ms": round(load + token, 3)}

    stages(lambda _: None)
    return {"disk, warm": stages(lambda _: None), "disk, cold": stages(forget)}
