"""A process of its own, with a tiny model and one adapter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PREAMBLE = """
import os, sys, threading, time
import torch
import meteora_rs
from meteora_rs import MeteoraConfig
from tiny import adapter, equal, logits, prompt, tiny_model
torch.set_num_threads(1)
model = tiny_model()
meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=4, pool_rank=64))
meteora.load_adapter(adapter(model, 4, seed=1), "math")
"""


def start(script: str, **environment: str) -> subprocess.Popen[str]:
    """Start a script after `PREAMBLE` in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for its end; one that does not come to it is killed.

    Raises:
        TimeoutExpired: it did not.
    """
    try:
        out, err = process.communicate(timeout=100)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script after `PREAMBLE` in a process of its own."""
    return ended(start(script, **environment))
