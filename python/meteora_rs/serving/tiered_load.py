"""Loads where there is a host tier: a copy stays in the host's memory, and others make room."""

from __future__ import annotations

from typing import Any

from meteora_rs import _native, gate_kinds
from meteora_rs.attached.record import GIVEN, AdapterRecord
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError
from meteora_rs.gate_kinds import Gate
from meteora_rs.serving.cancel import Cancellation
from meteora_rs.serving.load import Load
from meteora_rs.tiers.registration import Copy
from meteora_rs.tiers.tiers import Tiers
from meteora_rs.tiers.turn import Turn


class TieredLoad(Load):
    """A load that leaves a copy with the host.

    A reload of an adapter that is not on the device changes the host's copy alone.
    """

    _copy: Copy | None = None

    def check(self) -> Load:
        """Parse it, and check all that needs no place; nothing is taken or changed.

        Raises:
            AdapterInUseError: a load under the name of a registered adapter. Others as `Load.check`.
        """
        if not self._reload and self._tiers.knows(self._name):
            raise AdapterInUseError(
                f"adapter {self._name!r} is in use: one is registered under this name; reload_adapter() replaces it, "
                "prefetch() brings it in"
            )
        return super().check()

    def prepare(self, cancellation: Cancellation) -> Load:
        """Write what has been checked where nobody reads; on any error nothing has happened.

        Raises: as `Load.prepare`.
        """
        self._make_gate(cancellation)  # which may take long: then alone it is asked where the adapter is
        tiers = self._tiers
        if not self._reload or not tiers.rests(self._name):
            return super().prepare(cancellation)
        if self._if_generation is not None:  # generations are of what is on the device
            with self._meteora._admit([("named", [self._name], [])]):
                return super().prepare(cancellation)
        gate = self._given
        if gate is None and (kind := tiers.record(self._name).gate) not in GIVEN:
            gate = gate_kinds.resolve(kind, self._adapter, self._meteora.sites)
        cancellation.check()
        self._copy = tiers.pack(self._adapter, self._source, self._revision, gate)
        return self

    def publish(self) -> AdapterRecord:
        """Let requests that begin from now on see it. Raises: as `Load.publish`."""
        if self._reservation is not None:
            return super().publish()
        meteora, tiers, copy = self._meteora, self._tiers, self._copy
        assert copy is not None
        try:
            with meteora._writer:
                meteora._require_attached()
                if tiers.rests(self._name) and tiers.native.is_current(copy.native):
                    record = tiers.keep(copy)
                    self._published()
                    return record
        finally:
            self.abandon()
        # A request has brought the old weights in meanwhile, its gates were changed, or it was unloaded.
        return self.prepare(Cancellation()).publish()

    def abandon(self) -> None:
        """Give back what is not published, in the host's memory too."""
        super().abandon()
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.native.abandon()

    def _before_writing(self, gate: Gate) -> None:
        self._copy = self._tiers.pack(self._adapter, self._source, self._revision, gate)

    def _make_live(self) -> dict[str, Any]:
        tiers, copy, before = self._tiers, self._copy, self._generation()
        assert copy is not None
        if not self._reload and tiers.knows(self._name):
            raise AdapterInUseError(f"adapter {self._name!r} is in use: one was registered under this name meanwhile")
        try:
            record = super()._make_live()
            tiers.keep(copy, record["generation"])
        except BaseException:  # a signal, which may have come when it was live already: then the host has it too
            if (generation := self._generation()) != before:
                tiers.keep(copy, generation)
            raise
        return record

    def _generation(self) -> int | None:
        """Under which it is live now."""
        try:
            return self._meteora.adapter(self._name).generation
        except AdapterNotFoundError:
            return None

    def _reserve(self, cancellation: Cancellation) -> _native.Reservation:
        """A place for a new adapter, if need be another's, in its turn."""
        if self._reload:
            return super()._reserve(cancellation)
        native, kernels = self._tiers.native, [site.kernel for site in self._meteora.sites]
        turn = Turn(self._meteora, native, self._name)
        try:
            while True:
                cancellation.check()
                if turn.come():
                    place = turn.make_room(lambda: native.make_room_for(self._adapter, kernels))
                    if place is not None:
                        return place
                turn.wait()
        finally:
            turn.leave()

    @property
    def _tiers(self) -> Tiers:
        tiers = self._meteora.tiers
        assert tiers is not None
        return tiers
