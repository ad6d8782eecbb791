"""Following a folder of adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from meteora_rs.handle.tiering import Tiering

if TYPE_CHECKING:
    from meteora_rs.handle.watch import Watch


class Watching(Tiering):
    """Adapters that come and go with their folders."""

    def watch(self, folder: str | os.PathLike[str], *, interval: float = 1.0) -> Watch:
        """Follow a folder of adapter folders until `stop()`: new ones are loaded, changed reloaded, gone unloaded.

        What is there at rest is loaded when this returns. Where there is a host tier, new ones are registered.

        Args:
            folder: each folder in it is an adapter of that name; write it elsewhere (or under a name with a leading
                dot) and rename it into place, or let it rest.
            interval: seconds between two looks, and for which a folder must not have changed, > 0.

        Raises:
            ValueError: `interval` is not above 0.
            FileNotFoundError, NotADirectoryError: there is no such folder.
        """
        from meteora_rs.handle.watch import Watch

        if not interval > 0:
            raise ValueError(f"interval must be above 0 seconds, not {interval}")
        self._require_attached()
        path = Path(folder)
        os.scandir(path).close()
        return Watch(self, path, interval).start()
