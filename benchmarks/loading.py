"""What loading costs: time by number already loaded, and Arrow rows."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import MeteoraConfig
from meteora_rs.gate_kinds import ArrowGate

from benchmarks.models import twin


def meteora_loading(base: Any, adapters: list[Path], gate: str) -> dict[str, float]:
    """Seconds to load all, and the median of the first and the last five."""
    config = MeteoraConfig(max_adapters=len(adapters), pool_rank=8 * len(adapters))
    meteora = meteora_rs.attach(twin(base), config)
    seconds = []
    for path in adapters:
        start = time.perf_counter()
        meteora.load_adapter(path, path.name, gate=gate)
        seconds.append(time.perf_counter() - start)
    meteora.detach()
    return {
        "total_s": round(sum(seconds), 4),
        "first_five_median_s": round(statistics.median(seconds[:5]), 5),
        "last_five_median_s": round(statistics.median(seconds[-5:]), 5),
    }


def arrow_rows(base: Any, adapter: Path) -> float:
    """Median seconds for the Arrow rows of one adapter, over all sites."""
    meteora = meteora_rs.attach(twin(base), MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter, "a", gate="none")
    parsed = meteora._registry.parse_folder("a", str(adapter))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        ArrowGate(parsed, meteora.sites).write(0)
        times.append(time.perf_counter() - start)
    meteora.detach()
    return round(statistics.median(times), 5)


def peft_loading(base: Any, adapters: list[Path]) -> dict[str, float]:
    """The same for PEFT's load_adapter."""
    from peft import PeftModel

    seconds = []
    model = None
    with torch.no_grad():
        for path in adapters:
            start = time.perf_counter()
            if model is None:
                model = PeftModel.from_pretrained(twin(base), str(path), adapter_name=path.name)
            else:
                model.load_adapter(str(path), adapter_name=path.name)
            seconds.append(time.perf_counter() - start)
    return {
        "total_s": round(sum(seconds), 4),
        "first_five_median_s": round(statistics.median(seconds[:5]), 5),
        "last_five_median_s": round(statistics.median(seconds[-5:]), 5),
    }
