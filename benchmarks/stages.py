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


def first_token(
    meteora: Meteora, tiered: Meteora, sources: list[Path], prompt: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Median milliseconds until the first token by an adapter that nobody has seen, by stage.

    From disk: a load, then the prompt's forward pass. From the host of `tiered`: the way to the device, then the same.
    """

    def from_disk(source: Path) -> dict[str, float]:
        load = timed(lambda: meteora.load_adapter(source, "new", gate="none"))
        stages = {f"{stage}_ms": times.last * 1e3 for stage, times in meteora.stats().loads.items()}
        return {**stages, "load_ms": load, **answered(meteora, load)}

    def from_host(source: Path) -> dict[str, float]:
        tiered.register_adapter(source, "new", gate="none")
        admission = timed(lambda: tiered.prefetch(["new"]))
        admissions = tiered.stats().admissions
        assert admissions is not None
        copied = admissions.arrivals.last * 1e3
        return {"copy_ms": copied, "admission_ms": admission, **answered(tiered, admission)}

    def answered(handle: Meteora, before: float) -> dict[str, float]:
        with torch.inference_mode(), handle.routing("new"):
            token = timed(lambda: handle.model(input_ids=prompt, use_cache=True))
        handle.unload_adapter("new")
        return {"prompt_ms": token, "first_token_ms": before + token}

    def stages(bring: Callable[[Path], dict[str, float]], prepare: Callable[[Path], object]) -> dict[str, float]:
        runs = []
        for source in sources:
            prepare(source)
            runs.append(bring(source))
        return {stage: round(statistics.median(run[stage] for run in runs), 3) for stage in runs[0]}

    for bring in (from_disk, from_host):  # every page that the rows take is written once
        stages(bring, lambda _: None)
    return {
        "host": stages(from_host, lambda _: None),
        "disk, warm": stages(from_disk, lambda _: None),
        "disk, cold": stages(from_disk, forget),
    }
