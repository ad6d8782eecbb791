"""Adapters on disk in several versions, and broken ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from meteora_rs import Meteora
from tiny import ALL, adapter, gate_rows, tiny_model, write

NAMES = ("math", "law", "sql", "code", "chem", "bio")
KINDS: tuple[dict[str, Any], ...] = (
    {"rank": 4},
    {"rank": 8, "dtype": torch.bfloat16},
    {"rank": 16, "targets": ("q_proj", "v_proj", "down_proj")},
    {"rank": 3, "ranks": {"o_proj": 6}},
)
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def _cut(folder: Path, file: str, keep: float) -> None:
    os.truncate(folder / file, int((folder / file).stat().st_size * keep))


def _spoil(folder: Path) -> None:
    data = bytearray((folder / TENSORS).read_bytes())
    data[-4:] = b"\xff\xff\xff\xff"  # a NaN, in float32 and bfloat16 alike
    (folder / TENSORS).write_bytes(data)


BREAK: dict[str, Callable[[Path], object]] = {
    "tensors cut": lambda f: _cut(f, TENSORS, 0.7),
    "header cut": lambda f: _cut(f, TENSORS, 0.01),
    "config cut": lambda f: _cut(f, CONFIG, 0.5),
    "no config": lambda f: (f / CONFIG).unlink(),
    "no tensors": lambda f: (f / TENSORS).unlink(),
    "a NaN": _spoil,
}


@dataclass(frozen=True)
class Library:
    """What loaders draw from: `versions[name]` are good folders, `broken` are not."""

    versions: dict[str, list[Path]]
    broken: list[Path]

    def draw(self, random: Random) -> tuple[str, Path]:
        """A name and one version of its weights."""
        name = random.choice(NAMES)
        return name, random.choice(self.versions[name])


def make_library(folder: Path) -> Library:
    """Write all versions of all names, and one folder for each way of being broken."""
    model = tiny_model()
    versions: dict[str, list[Path]] = {}
    for place, name in enumerate(NAMES):
        sources = [adapter(model, seed=10 * place + at, **{"targets": ALL, **kind}) for at, kind in enumerate(KINDS)]
        versions[name] = [write(source, folder / f"{name}-{at}") for at, source in enumerate(sources)]
    broken = []
    for what, spoil in BREAK.items():
        broken.append(write(adapter(model, 4), folder / f"broken, {what}"))
        spoil(broken[-1])
    return Library(versions, broken)


def gate_of(meteora: Meteora, name: str, kind: str) -> Any:
    """The gate that `name` has whenever `adapters()` says `kind`: what a request saw is told by names alone."""
    if kind in ("arrow", "none"):
        return kind
    place = NAMES.index(name)
    return gate_rows(meteora, place + (100 if kind == "fitted" else 0), equal=place % 2 == 0)
