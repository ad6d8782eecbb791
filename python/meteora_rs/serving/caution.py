"""What a load warns of, in the name of whoever called it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from meteora_rs import _native
from meteora_rs.files.source import MEMORY

PACKAGE = str(Path(__file__).parents[1]) + os.sep


def warn_of_missing(adapter: _native.Adapter) -> None:
    """Warn of an adapter whose config targets linears of the model for which its file has no tensors.

    Warns:
        UserWarning: how many, the first, and the file.
    """
    missing = adapter.missing()
    if not missing:
        return
    source = adapter.source
    file = source if source == MEMORY else Path(source, "adapter_model.safetensors")
    say(
        f"adapter {adapter.name!r}: {len(missing)} of the {len(missing) + len(adapter.modules())} linears that its "
        f"config targets have no tensors, and stay as the base has them; the first is {missing[0]} (file: {file})"
    )


def say(text: str) -> None:
    """Warn of something in the name of the first caller that is none of this package.

    Warns:
        UserWarning: it.
    """
    warnings.warn(text, UserWarning, stacklevel=2 + _frames_of_ours())


def _frames_of_ours() -> int:
    """How many frames of this package lie between the caller of `say` and the first that is none of it."""
    frame, count = sys._getframe(2), 0
    while frame.f_code.co_filename.startswith(PACKAGE) and frame.f_back is not None:
        frame, count = frame.f_back, count + 1
    return count
