"""What `doctor` says of CUDA: what is built in, what is there, and which image each card takes."""

from __future__ import annotations

from typing import Any

from meteora_rs import _native


def cuda() -> dict[str, Any]:
    """Return the rows of the section: kernels, driver, torch, and each device with its image and why."""
    import torch

    report = _native.cuda_report()
    rows = {"kernels": _built(report)}
    if "problem" in report:
        rows["driver"] = f"{report['problem']}: the CPU kernels serve"
    else:
        rows["driver"] = f"{report['library']}, for CUDA up to {report['driver']}"
    rows["torch"] = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    for index, device in enumerate(report.get("devices", [])):
        rows[f"cuda:{index}"] = device["problem"] if "problem" in device else _device(device)
    return rows


def _built(report: dict[str, Any]) -> str:
    if not _native.cuda_built():
        return "none: this build was made without a CUDA compiler (NVRTC or nvcc)"
    images = report["images"]
    kinds = list(dict.fromkeys(name.split()[1] for name, _, _ in images))
    embedded = sum(size for _, _, size in images)
    size, sources = f"{embedded / 1024:.0f} KiB", report["source_hash"][:12]
    return f"by {report['compiler']} for {', '.join(kinds)}; {size}; sources {sources}"


def _device(device: dict[str, Any]) -> str:
    major, minor = device["capability"]
    kind, arch = device["image"].split("_")
    why = "machine code for this card"
    if kind == "compute":
        why = "PTX, which the driver compiles: no machine code runs on this card"
    elif arch != f"{major}{minor}":
        why = f"machine code for {arch[:-1]}.{arch[-1]}, which runs on {major}.{minor} too"
    return f"{device['name']} ({major}.{minor}, {device['multiprocessors']} SMs): {device['image']} ({why})"
