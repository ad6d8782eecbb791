"""Are an adapter's files still what was loaded of them?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from meteora_rs.attached.record import AdapterRecord
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, MeteoraError
from meteora_rs.files.peft_folder import Module, live_modules, parse_own, resting_modules
from meteora_rs.files.source import MEMORY, parse
from meteora_rs.serving.served import Served


class Verifying(Served):
    """What is served against what is on disk."""

    def verify_adapter(self, adapter_name: str) -> None:
        """Hold an adapter's files against what is served of them, by SHA-256 over every rank, scaling, type and weight.

        Nothing is kept for it: both sides are hashed now, and are in memory once more meanwhile. Requests, loads and
        unloads go on. What is registered and on disk alone has nothing to be held against but its stamp (device, inode,
        size, times).

        Args:
            adapter_name: of a live or a registered adapter, or an alias.

        Raises:
            AdapterFormatError: the files are not what was loaded, or no adapter that fits.
            AdapterUnsupportedError: their config asks now for what is not supported.
            AdapterNotFoundError: no such adapter.
            AdapterInUseError: it is being reloaded, or was meanwhile; try again.
            MeteoraError: it came from memory, or this handle was detached.
            OSError: the files can't be read.
        """
        self._require_attached()
        name = self._registry.aliases().get(adapter_name, adapter_name)
        with self._writer:  # what is listed is what is held
            hold, live = self._hold()
            record = next((record for record in live if record.name == name), None)
        try:
            if record is not None:
                return self._compare(record, live_modules(self.sites, record.slot))
        finally:
            del hold
        if self.tiers is None or not self.tiers.knows(name):
            self.adapter(name)  # which says that there is none
        assert self.tiers is not None
        record, copy = self.tiers.record(name), self.tiers.native.hold(name)
        if copy is None:
            return self.tiers.check_stamp(name)
        self._compare(record, resting_modules(self.sites, copy))

    def _compare(self, record: AdapterRecord, served: Iterable[Module]) -> None:
        """Raises: as `verify_adapter`."""
        if record.source == MEMORY:
            raise MeteoraError(f"adapter {record.name!r} came from memory: it has no files to be held against")
        # A path is never looked for on the hub.
        source = record.source if self._registry.has_root else Path(record.source)
        files = parse(self._registry, source, record.name).content_hash()
        if files != parse_own(self.sites, served, record.name).content_hash():
            if self._weights(record.name) != record.weights:
                raise AdapterInUseError(f"adapter {record.name!r} was replaced while it was verified; verify it again")
            raise AdapterFormatError(
                f"adapter {record.name!r}: its files are not what was loaded of them; reload_adapter() takes them as "
                f"they are now (file: {record.source})"
            )

    def _weights(self, name: str) -> int | None:
        """The generation of an adapter's weights now."""
        for record in self.adapters():
            if record.name == name:
                return record.weights
        return self.tiers.record(name).weights if self.tiers is not None and self.tiers.knows(name) else None
