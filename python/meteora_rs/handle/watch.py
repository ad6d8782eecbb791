"""A folder of adapter folders, followed: what appears is loaded, what changes reloaded, what goes unloaded."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from meteora_rs.errors import AdapterInUseError, CapacityError, MeteoraError
from meteora_rs.files.source import FILES
from meteora_rs.handle.tiering import Tiering
from meteora_rs.handle.wakeup import Wakeup

logger = logging.getLogger("meteora_rs")

Stamp = tuple[tuple[int, ...], ...]
"""Of an adapter's files, in order: device, inode, size, times of the last write and change in ns."""


@dataclass
class Seen:
    """A complete folder as it was seen last, since when it is so, and what it is loaded as."""

    stamp: Stamp
    since: float
    loaded: Stamp | None = None
    refused: Stamp | None = None


class Watch:
    """What `Meteora.watch` returns; runs in a thread of its own until `stop`, or the model is detached.

    A folder is taken when both of its files are there and have not changed for `interval` seconds, so that half a copy
    is not; one that is written elsewhere and renamed into place is taken whole. Its name is the adapter's; names that
    begin with a dot are passed over. Adapters that were loaded otherwise are left alone.

    Nothing that is wrong with a folder ends the watch: it is logged, and kept in `errors` until it is mended. While
    the watched folder itself can't be read, nothing is unloaded.
    """

    def __init__(self, meteora: Tiering, folder: Path, interval: float) -> None:
        self.folder = folder
        self.errors: dict[str, Exception] = {}
        """By folder name, what is wrong with it now; `"."` is the watched folder itself."""
        self._meteora, self._interval = meteora, interval
        self._seen: dict[str, Seen] = {}
        self._scanning = threading.Lock()
        self._stopped = threading.Event()
        self._wakeup = Wakeup()
        self._thread = threading.Thread(target=self._run, name=f"meteora-watch {folder.name}", daemon=True)

    def start(self) -> Watch:
        """Take what is there at rest, then follow."""
        self.scan()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Follow no more; what is loaded stays. Returns when a load that is under way has ended."""
        self._stopped.set()
        self._wakeup.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def scan(self) -> None:
        """Look now."""
        with self._scanning:
            try:
                found = self._find()
            except OSError as error:
                self._note(".", error)
                return
            self.errors.pop(".", None)
            for name in [name for name in self._seen if name not in found]:
                self._gone(name)
            for name in set(self.errors) - set(found) - set(self._seen):
                del self.errors[name]
            for name, stamp in found.items():
                self._look(name, stamp)

    def __enter__(self) -> Watch:
        """The watch, which runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _run(self) -> None:
        while not self._stopped.is_set() and self._meteora._patch.active:
            self._wakeup.wait(self._interval)
            if self._stopped.is_set():
                return
            try:
                self.scan()
            except Exception as error:  # not foreseen, and no reason to stop following
                self._note(".", error)
            # What was written just now is looked at again when it has been quiet for long enough, not at each event.
            self._stopped.wait(min(0.05, self._interval))

    def _find(self) -> dict[str, Stamp]:
        """The complete adapter folders."""
        found = {}
        self._wakeup.follow(self.folder)
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_dir():
                    continue
                self._wakeup.follow(Path(entry.path))
                stamp = _stamp(Path(entry.path))
                if stamp is not None:
                    found[entry.name] = stamp
        return found

    def _look(self, name: str, stamp: Stamp) -> None:
        now = time.monotonic()
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = Seen(stamp, now)
        elif seen.stamp != stamp:
            seen.stamp, seen.since = stamp, now
        if stamp in (seen.loaded, seen.refused):
            return
        if now - seen.since >= self._interval or _age(stamp) >= self._interval:
            self._take(name, seen)

    def _take(self, name: str, seen: Seen) -> None:
        meteora, path = self._meteora, self.folder / name
        try:
            if seen.loaded is not None:
                meteora.reload_adapter(name, path)
            elif meteora.tiers is not None:
                meteora.register_adapter(path, name)
            else:
                meteora.load_adapter(path, name)
        except Exception as error:
            # What is wrong with the files stays wrong until they change; the rest may go better next time.
            if isinstance(error, (MeteoraError, Warning)) and not isinstance(error, (CapacityError, AdapterInUseError)):
                seen.refused = seen.stamp
            self._note(name, error)
            return
        seen.loaded = seen.stamp
        self.errors.pop(name, None)
        logger.info("watch %s: adapter %r is %s", self.folder, name, "new" if seen.refused is None else "mended")

    def _gone(self, name: str) -> None:
        if self._seen[name].loaded is not None:
            try:
                self._meteora.unload_adapter(name)
            except KeyError:  # somebody else has unloaded it
                pass
            except MeteoraError as error:  # pinned, or being changed: again at the next look
                self._note(name, error)
                return
            logger.info("watch %s: adapter %r is gone", self.folder, name)
        del self._seen[name]
        self.errors.pop(name, None)

    def _note(self, name: str, error: Exception) -> None:
        before = self.errors.get(name)
        self.errors[name] = error
        if before is None or str(before) != str(error):
            logger.warning("watch %s: %s: %s", self.folder, name, error)


def _stamp(folder: Path) -> Stamp | None:
    """None: not both files are there."""
    stamps = []
    for file in FILES:
        try:
            status = os.stat(folder / file)
        except OSError:
            return None
        stamps.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(stamps)


def _age(stamp: Stamp) -> float:
    """Seconds since the last write to either file."""
    return time.time() - max(each[3] for each in stamp) / 1e9
