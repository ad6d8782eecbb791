"""`python -m benchmarks.memory FOLDER`: resident bytes that attaching and loading add, in a process of its own.

In a process that has freed memory before, new pools may lie on pages that are resident already.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import meteora_rs
from meteora_rs import MeteoraConfig

from benchmarks.models import load_base
from benchmarks.random_adapters import random_gates


def resident_bytes() -> int:
    """The process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measure(adapters: list[Path]) -> dict[str, float]:
    """Bytes of the adapters, of their gate rows, and resident bytes gained by attach and load."""
    base = load_base()
    before = resident_bytes()
    config = MeteoraConfig(max_adapters=len(adapters), pool_rank=8 * len(adapters))
    meteora = meteora_rs.attach(base, config)
    for path in adapters:
        meteora.load_adapter(path, path.name, gate="none")
    meteora.set_gates(random_gates(meteora, [path.name for path in adapters]))
    gained = resident_bytes() - before
    own = sum(record.bytes for record in meteora.adapters())
    gates = sum(site.gate.numel() * 4 for site in meteora.sites)
    return {
        "adapters_mib": round(own / 2**20, 1),
        "gates_mib": round(gates / 2**20, 1),
        "resident_gained_mib": round(gained / 2**20, 1),
        "gained_less_gates_over_adapters": round((gained - gates) / own, 3),
    }


def in_own_process(folder: Path, count: int) -> dict[str, float]:
    """`measure` of the first `count` adapters of `folder`, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", str(folder), str(count)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(printed.splitlines()[-1])
    return result


if __name__ == "__main__":
    print(json.dumps(measure([Path(sys.argv[1]) / f"adapter_{index}" for index in range(int(sys.argv[2]))])))
