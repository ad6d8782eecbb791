"""Print versions, the device, the kernels in use and why, threads, and the memory that the pools take."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any

HELP = "versions, kernels in use, threads, memory"

PACKAGES = ("meteora-rs", "torch", "transformers", "safetensors", "huggingface-hub", "numpy", "peft")

WHY = {
    "avx2": "this CPU has AVX2, FMA and F16C",
    "neon": "an ARM CPU has it always",
    "portable": "this CPU has neither AVX2 with FMA and F16C nor NEON",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--model", help="say what the pools take on this model (default: SmolLM2-135M's shapes)")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    report = examine(args.model)
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    for section, entries in report.items():
        print(section)
        width = max(map(len, entries))
        for key, value in entries.items():
            print(f"  {key:<{width}}  {value}")
    return 0


def examine(model: str | None) -> dict[str, dict[str, Any]]:
    """Return the report, section by section.

    Raises:
        OSError: the model's config can't be read.
    """
    from meteora_rs.cli.cuda_report import cuda

    return {
        "versions": versions(),
        "machine": {
            "python": f"{platform.python_version()} ({sys.executable})",
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "kernels": kernels(),
        "cuda": cuda(),
        "pools": pools(model),
    }


def versions() -> dict[str, str]:
    """Return the version of each package that matters, or that it is missing."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def kernels() -> dict[str, Any]:
    """Return which kernels run and why."""
    import torch

    from meteora_rs import _native

    return {
        "cpu": f"{_native.isa()} ({WHY[_native.isa()]})",
        "threads": f"{torch.get_num_threads()} (torch.get_num_threads())",
    }


def pools(model: str | None) -> dict[str, Any]:
    """Return the bytes that an attached model's buffers take with the default configuration."""
    from meteora_rs import MeteoraConfig, attach
    from meteora_rs.cli.shapes import empty_model, model_name

    config = MeteoraConfig()
    device = attach(empty_model(model)).stats().tiers["device"]
    return {
        "model": model_name(model),
        "adapters": f"up to {config.max_adapters} in {config.pool_rank} rank rows (MeteoraConfig's defaults)",
        "address space": f"{device.reserved / 2**20:.0f} MiB",
        "memory": f"{device.touched / 2**20:.0f} MiB at most before the first load; more as rows are written",
    }
