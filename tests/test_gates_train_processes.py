"""Several processes train as one would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_numbers import Numbers, attached, texts
from two_processes import OPTIONS

HERE = Path(__file__).parent


def test_two_processes_train_the_gates_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
    }  # fmt: skip
    command = [sys.executable, str(HERE / "two_processes.py"), str(tmp_path)]
    running = [
        subprocess.Popen(
            command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=200)[0].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)

    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in "01")
    assert first["world"] == second["world"] == 2
    alone = attached()
    report = alone.train_gates(texts(0), tokenizer=Numbers(), progress=False, gradient_accumulation_steps=2, **OPTIONS)
    for name, rows in alone.gate_rows().items():
        for path, (row, bias) in rows.items():
            assert torch.equal(first["gates"][name][path][0], second["gates"][name][path][0])
            assert torch.allclose(first["gates"][name][path][0], row, atol=1e-4)
            assert first["gates"][name][path][1] == pytest.approx(bias, abs=1e-4)
    for line, other in zip(first["curve"], report.curve, strict=True):
        assert line == pytest.approx(other, abs=1e-3)
    assert (tmp_path / "out/checkpoint-4/meteora_classes.json").is_file()
