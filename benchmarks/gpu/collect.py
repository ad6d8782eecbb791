"""Puts what `run.sh` has left in a folder into one JSON."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch
from meteora_rs import _native

STEPS = ("grid", "memcheck", "racecheck", "synccheck", "kernels", "end_to_end")
LAST_LINES = 5


def collect(folder: Path) -> dict[str, object]:
    """Card, driver, versions, the status and last lines of each step, and the timings that were taken."""
    steps = {}
    for name in STEPS:
        status, log = folder / f"{name}.status", folder / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        steps[name] = {"status": status.read_text().strip() if status.exists() else "not run",
                       "last": lines[-LAST_LINES:]}  # fmt: skip
    timings = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}
    packages = ("meteora-rs", "torch", "transformers", "triton", "vllm", "punica")
    installed = {d.metadata["Name"].lower() for d in metadata.distributions()}
    return {
        "card": torch.cuda.get_device_name(),
        "cuda": _native.cuda_report(),
        "versions": {name: metadata.version(name) for name in packages if name in installed},
        "python": platform.python_version(),
        "steps": steps,
        "timings": timings,
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(collect(Path(sys.argv[1])), indent=1) + "\n")
