"""Puts what `run.sh` has left in a folder into one JSON."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

import torch
from meteora_rs import _native

STEPS = ("doctor", "grid", "memcheck", "racecheck", "synccheck", "kernels", "end_to_end")
PACKAGES = ("meteora-rs", "torch", "transformers", "triton", "vllm", "punica")
LAST_LINES = 40


def version(package: str) -> str:
    """The installed one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def collect(folder: Path) -> dict[str, object]:
    """Card, driver, versions, the status and last lines of each step, and the timings that were taken."""
    steps = {}
    for name in STEPS:
        status, log = folder / f"{name}.status", folder / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        steps[name] = {"status": status.read_text().strip() if status.exists() else "not run",
                       "last": lines[-LAST_LINES:]}  # fmt: skip
    timings = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}
    return {
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cuda": _native.cuda_report(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "steps": steps,
        "timings": timings,
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(collect(Path(sys.argv[1])), indent=1) + "\n")
