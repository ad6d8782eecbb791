"""Trains gates in one of several processes and writes what each ended with: `two_processes.py FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from tiny_numbers import Numbers, attached, texts

OPTIONS = {"steps": 4, "top_k": 2, "learning_rate": 2e-2, "logging_steps": 2, "per_device_train_batch_size": 3}


def main(folder: Path) -> None:
    """Train with the batch shared out over the processes; each writes its own gates."""
    torch.set_num_threads(1)
    meteora = attached()
    report = meteora.train_gates(
        texts(0), tokenizer=Numbers(), progress=False, gradient_accumulation_steps=1, output_dir=folder / "out",
        **OPTIONS,
    )  # fmt: skip
    found = {"gates": meteora.gate_rows(), "curve": report.curve, "world": int(os.environ["WORLD_SIZE"])}
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
