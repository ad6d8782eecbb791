"""What `doctor` says of CUDA, with and without a driver."""

from __future__ import annotations

from typing import Any

import pytest
from meteora_rs import _native
from meteora_rs.cli.cuda_report import cuda

IMAGES = [("decode sm_80", 1000, 2048), ("decode sm_90", 1000, 2048), ("decode compute_90", 1000, 2048)]
BUILT: dict[str, Any] = {"compiler": "NVRTC 12.8", "source_hash": "0123456789abcdef", "images": IMAGES}


def report(monkeypatch: pytest.MonkeyPatch, built: bool, **more: Any) -> dict[str, Any]:
    monkeypatch.setattr(_native, "cuda_built", lambda: built)
    monkeypatch.setattr(_native, "cuda_report", lambda: {**BUILT, **more})
    return cuda()


def card(capability: tuple[int, int], image: str) -> dict[str, Any]:
    return {"name": "A card", "capability": capability, "multiprocessors": 7, "image": image}


def test_it_says_which_image_each_card_takes_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [
        card((9, 0), "sm_90"),
        card((8, 7), "sm_80"),
        card((15, 0), "compute_90"),
        {"problem": "CUDA device 3 is too old"},
    ]
    rows = report(monkeypatch, True, library="libcuda.so.1", driver="13.0", devices=devices)
    assert rows["kernels"] == "by NVRTC 12.8 for sm_80, sm_90, compute_90; 6 KiB; sources 0123456789ab"
    assert rows["driver"] == "libcuda.so.1, for CUDA up to 13.0"
    assert rows["cuda:0"] == "A card (9.0, 7 SMs): sm_90 (machine code for this card)"
    assert rows["cuda:1"].endswith("sm_80 (machine code for 8.0, which runs on 8.7 too)")
    assert rows["cuda:2"].endswith("(PTX, which the driver compiles: no machine code runs on this card)")
    assert rows["cuda:3"] == "CUDA device 3 is too old"


def test_without_driver_or_kernels_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = report(monkeypatch, False, problem="no CUDA driver: libcuda.so.1 can't be opened")
    assert rows["kernels"].startswith("none: ")
    assert rows["driver"] == "no CUDA driver: libcuda.so.1 can't be opened: the CPU kernels serve"


def test_the_real_report_has_the_rows_that_are_read() -> None:
    assert {"kernels", "driver", "torch"} <= cuda().keys()
