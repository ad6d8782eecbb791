"""What is registered, and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from meteora_rs import _native, gate_kinds
from meteora_rs.attached.attached import Attached
from meteora_rs.attached.record import GIVEN, AdapterRecord
from meteora_rs.errors import AdapterFormatError, AdapterNotFoundError
from meteora_rs.files.source import AdapterSource, parse
from meteora_rs.gate_kinds import Gate
from meteora_rs.tiers.at_rest import AtRest, at_rest
from meteora_rs.tiers.registration import Copy, Registration


class Tiers:
    """The adapters that one attached model can serve, on the device or not.

    All changes of what is registered are made by who holds the handle's writer lock.
    """

    def __init__(self, meteora: Attached, host_bytes: int) -> None:
        self.native = _native.Tiers(meteora._registry, host_bytes)
        self._meteora = meteora
        self._registered: dict[str, Registration] = {}

    def knows(self, name: str) -> bool:
        """Whether an adapter of this name is registered."""
        return name in self._registered

    def rests(self, name: str) -> bool:
        """Whether it is registered and not on the device."""
        return name in self._registered and bool(self.native.missing([name]))

    def pack(
        self,
        adapter: _native.Adapter,
        source: AdapterSource,
        revision: str | None,
        gate: Gate | None,
    ) -> Copy:
        """Copy an adapter to the host's memory; None: with the gate rows that the host has of that name.

        Raises:
            CapacityError: the budget, with what can't leave it.
        """
        kind = gate.kind if gate is not None else self.record(adapter.name).gate
        rows, arrow = gate.parts() if gate is not None else (None, None)
        folder = None if isinstance(source, Mapping) else source
        native = self.native.pack(adapter, kind, rows, arrow, gate is None, folder is not None)
        record = AdapterRecord(
            name=adapter.name, id=-1, generation=0, weights=0, slot=-1, rank=adapter.rank, dtype=adapter.dtype,
            bytes=adapter.bytes, sites=len(adapter.modules()), pinned=False, gate=kind, routable=kind != "none",
            source=adapter.source, tier="host",
        )  # fmt: skip
        return Copy(native, Registration(folder, revision, adapter.stamp, record))

    def keep(self, copy: Copy, generation: int | None = None) -> AdapterRecord:
        """Register what has been packed; `generation` is that under which it is on the device. Twice is as once."""
        name = copy.registration.record.name
        self._registered[name] = copy.registration
        self.native.keep(copy.native, generation)
        self.native.touch(name)
        return self.record(name)

    def forget(self, name: str) -> bool:
        """Register an adapter no more; whether it was."""
        self.native.forget(name)
        return self._registered.pop(name, None) is not None

    def record(self, name: str) -> AdapterRecord:
        """What is known of a registered adapter that is not on the device.

        Raises:
            AdapterNotFoundError: it is registered no more.
        """
        registered = vars(self._registration(name).record)
        hosted = self.native.hosted(name)
        return AdapterRecord(**{**registered, "tier": "disk"} if hosted is None else {**registered, **hosted})

    def resting(self) -> list[AdapterRecord]:
        """The registered adapters that are not on the device, by name."""
        records = []
        for name in self.native.missing(sorted(self._registered)):
            with suppress(AdapterNotFoundError):  # unloaded just now
                records.append(self.record(name))
        return records

    def hold(self, name: str) -> _native.HostCopy:
        """The host's copy of a registered adapter, read again if need be; it does not leave while it is held.

        Raises: as `fetch`.
        """
        while (copy := self.native.hold(name)) is None:
            self.fetch(name)
        return copy

    def at_rest(self) -> list[AtRest]:
        """The registered adapters that are not on the device, by name, as they are now."""
        return [
            at_rest(record, self._registered[record.name], self.native.hold(record.name), record.gate in GIVEN)
            for record in self.resting()
        ]

    def copy_of(self, resting: AtRest) -> _native.HostCopy:
        """The host's copy of an adapter as it was at rest, read again if need be. Raises: as `fetch`."""
        if resting.held is not None:
            return resting.held
        registration = resting.registration
        name = registration.record.name
        with self._meteora._writer:
            copy = self.native.hold(name) if self._registered.get(name) is registration else None
        return copy or self._read(registration, "none").native

    def fetch(self, name: str) -> None:
        """Read an adapter again that the host had no room for, unless it has come back meanwhile.

        Raises:
            AdapterNotFoundError: it is registered no more.
            AdapterFormatError: its files are others than those that were registered.
            CapacityError, OSError: as `register_adapter`.
        """
        with self._meteora._writer:  # in the middle of a change the host may lack what can't be read again
            registration = self._registration(name)
            if self.native.hosts(name):
                return
        copy = self._read(registration, registration.record.gate)
        try:
            with self._meteora._writer:
                if self._registered.get(name) is registration:
                    self.keep(copy)
        finally:
            copy.native.abandon()

    def _registration(self, name: str) -> Registration:
        registration = self._registered.get(name)
        if registration is None:
            raise AdapterNotFoundError(f"no adapter named {name!r} is registered")
        return registration

    def check_stamp(self, name: str) -> None:
        """Read the files of an adapter that is on disk alone, and leave it there. Raises: as `fetch`."""
        self._parse(self._registration(name))

    def _read(self, registration: Registration, gate: str) -> Copy:
        """Pack an adapter from its files again."""
        adapter, folder = self._parse(registration), registration.folder
        assert folder is not None
        return self.pack(adapter, folder, registration.revision, gate_kinds.resolve(gate, adapter, self._meteora.sites))

    def _parse(self, registration: Registration) -> _native.Adapter:
        """An adapter from its files again, if they are those that were registered."""
        meteora, folder, name = self._meteora, registration.folder, registration.record.name
        assert folder is not None
        with meteora.times.stage("parse"):
            adapter = parse(meteora._registry, folder, name, registration.revision)
        if adapter.stamp != registration.stamp:
            raise AdapterFormatError(
                f"adapter {name!r}: its files have changed since it was registered; reload_adapter() takes them as "
                f"they are now (file: {adapter.source})"
            )
        return adapter
