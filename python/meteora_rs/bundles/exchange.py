"""Two folders that take each other's name: in one step, where the system has one for it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2


def exchange(new: Path, old: Path) -> None:
    """Give two folders of one file system each other's name, or raise and leave both as they were.

    Who looks finds one or the other under either name, where kernel and file system can do that (Linux's renameat2).
    Elsewhere it is three renames, and for a moment there is nothing under the name of `old`.

    Raises:
        OSError: they can't be renamed.
    """
    if _in_one_step(new, old):
        return
    aside = new.with_name(new.name + ".old")
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:  # a signal may come when it was done already
        aside.rename(new if old.exists() else old)
        raise
    aside.rename(new)


def _in_one_step(one: Path, other: Path) -> bool:
    """Whether it could be done."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:  # a libc of before 2018
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)
