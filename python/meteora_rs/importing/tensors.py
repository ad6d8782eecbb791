"""Tensors of a safetensors checkpoint, one file or several, read when they are asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from meteora_rs.errors import AdapterFormatError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Tensors:
    """The tensors of `model.safetensors`, or of all files that `model.safetensors.index.json` lists.

    Args:
        source: the checkpoint's folder, its one file, or its index.

    Raises:
        AdapterFormatError: a file is damaged, or lacks a tensor that the index places there.
        OSError: a file can't be read.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.path = _find(Path(source))
        self._open: dict[Path, Any] = {}
        if self.path.name.endswith(".json"):
            self._file_of = self._read_index()
        else:
            self._file_of = dict.fromkeys(self._file(self.path).keys(), self.path)

    def _read_index(self) -> dict[str, Path]:
        try:
            files = json.loads(self.path.read_text())["weight_map"]
            placed = {name: self.path.parent / file for name, file in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AdapterFormatError(f"not an index of safetensors files: {error!r} (file: {self.path})") from error
        held = {path: set(self._file(path).keys()) for path in dict.fromkeys(placed.values())}
        for name, path in placed.items():
            if name not in held[path]:
                raise AdapterFormatError(
                    f"tensor {name} is missing, which {self.path.name} places there (file: {path})"
                )
        return placed

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            path.open("rb").close()  # a missing file is an OSError with its name, and not safetensors' own
            try:
                self._open[path] = safe_open(path, "pt")
            except SafetensorError as error:
                raise AdapterFormatError(f"not a safetensors file: {error} (file: {path})") from error
        return self._open[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        return list(self._file(self._file_of[name]).get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor."""
        tensor: Tensor = self._file(self._file_of[name]).get_tensor(name)
        return tensor

    def place(self, name: str) -> str:
        """For messages: the tensor and its file."""
        return f"tensor {name} (file: {self._file_of.get(name, self.path)})"


def _find(source: Path) -> Path:
    if not source.is_dir():
        return source
    for name in (WEIGHTS, INDEX):
        if (source / name).is_file():
            return source / name
    raise FileNotFoundError(f"neither {WEIGHTS} nor {INDEX} in {source}")
