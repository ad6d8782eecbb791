"""The cache folder, and folders that appear in it whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

_PARTIAL = ".partial-"


def cache_folder() -> Path:
    """Return the folder for fetched files: `METEORA_CACHE`, else the user's cache folder (XDG's rule)."""
    if chosen := os.environ.get("METEORA_CACHE"):
        return Path(chosen).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "meteora-rs"
    return Path("~/.cache/meteora-rs").expanduser()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, which `build` fills the first time; it never exists half built.

    `build` gets an empty folder on the same file system, which is renamed to `folder` when `build` returns
    and removed when it raises, Ctrl-C included. Processes that ask at the same time wait for the one that
    builds. What a killed process left behind is removed by the next one that builds.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        prefix = f"{_PARTIAL}{folder.name}-"
        for stale in folder.parent.glob(f"{prefix}*"):  # nobody else is building: we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            built = partial / "built"  # mkdtemp makes a private folder; this one gets the usual permissions
            built.mkdir()
            build(built)
            built.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
