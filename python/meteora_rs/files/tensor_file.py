"""Writing tensors, with the system's errors as such."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; on an error, what is at `path` is no such file.

    Raises:
        OSError: it can't be written: with its errno, which safetensors only tells in words.
    """
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        errno = int(found[1])
        raise OSError(errno, os.strerror(errno), str(path)) from error
    # safetensors writes beside it and renames, which leaves a file that nobody else may read.
    os.chmod(path, 0o644)
