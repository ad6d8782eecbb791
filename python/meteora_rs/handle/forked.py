"""What a forked process needs anew."""

from __future__ import annotations

import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meteora_rs.handle.attached import Attached

LOADERS = 2
"""Threads for loads that are awaited, of their own: an event loop's may all be busy generating."""

_handles: weakref.WeakSet[Attached] = weakref.WeakSet()


def make_threads(meteora: Attached) -> None:
    """Give a handle its locks and its loaders, and again in each child that is forked.

    A child has the adapters that were live at the fork, and what either process changes, it changes for itself. That
    holds where no load, reload or change of gates runs at the moment of the fork.
    """
    meteora._writer, meteora._fitting = threading.Lock(), threading.Lock()
    meteora._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="meteora-load")
    # The first of a queue alone works; of their own, because a load that waits for room keeps a loader.
    meteora._admitting = ThreadPoolExecutor(1, thread_name_prefix="meteora-admit")
    _handles.add(meteora)


def _renew() -> None:
    for meteora in list(_handles):  # the threads of the parent's loaders are not here, and nobody would open its locks
        make_threads(meteora)
        meteora._context.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
