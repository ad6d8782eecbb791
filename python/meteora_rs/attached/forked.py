"""What a forked process needs anew."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Has locks and threads, which a child does not get from its parent."""

    def _make_threads(self) -> None:
        """Make them anew."""
        ...


_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """Have it made anew in each child that is forked from now on."""
    _renewables.add(renewable)


def _renew() -> None:
    for renewable in list(_renewables):
        renewable._make_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
