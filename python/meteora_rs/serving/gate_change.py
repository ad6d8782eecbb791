"""One change of gates: of any number of adapters, all or none."""

from __future__ import annotations

from collections.abc import Mapping

from meteora_rs import _native
from meteora_rs.gate_kinds import Gate
from meteora_rs.routes import BASE
from meteora_rs.serving.served import Served
from meteora_rs.sites.groups import equal_gates

Changes = Mapping[str, tuple[Gate, bool] | None]
"""By adapter its new gate and whether `Auto` may choose it; for the base, None: it is no class any more."""


class GateChange:
    """New gates for adapters where they are now: on the device, or at rest in the host's memory."""

    def __init__(self, meteora: Served, changes: Changes) -> None:
        """Find out where they are; what rests is held, and read again if need be.

        Raises:
            CapacityError, AdapterFormatError, OSError: an adapter that had to be read again.
        """
        self._meteora, self._changes = meteora, changes
        self._resting: dict[str, _native.HostCopy] = {}
        try:
            for name in changes:
                if (tiers := meteora.tiers) is not None and tiers.rests(name):
                    self._resting[name] = tiers.hold(name)
        except BaseException:
            self._let_go()
            raise
        self._live = [name for name in changes if name != BASE and name not in self._resting]

    def attempt(self) -> bool:
        """Make it, in one step; False: one has come to the device or left it meanwhile, and nothing has happened.

        Raises:
            AdapterNotFoundError, AdapterInUseError: as `Meteora.set_gates`.
        """
        meteora = self._meteora
        reservation = None
        try:
            with meteora._writer, meteora._context.lock:
                meteora._require_attached()
                if self._moved():
                    return False
                with meteora._context.without_default():
                    reservation = meteora._registry.reserve_gates(self._live, self._changes.get(BASE) is not None)
                    if reservation.in_place:  # under the lock: a request that begins now waits
                        self._publish(reservation, self._write(reservation))
                        return True
            equal = self._write(reservation)
            with meteora._writer:
                if self._moved():
                    return False
                self._publish(reservation, equal)
                meteora._context.refresh()
                meteora._share_gates()
            return True
        finally:
            # A signal may come anywhere, and who keeps its traceback keeps the reservation and the copies.
            if reservation is not None:
                reservation.abandon()
            self._let_go()

    def _let_go(self) -> None:
        for copy in self._resting.values():
            copy.abandon()

    def _moved(self) -> bool:
        tiers = self._meteora.tiers
        return tiers is not None and (
            any(map(tiers.rests, self._live)) or not all(map(tiers.native.rests, self._resting.values()))
        )

    def _write(self, reservation: _native.GateReservation) -> dict[int, list[bool]]:
        """Write to the reserved slots; for each of them, where the sites of a group have the same row."""
        places: list[tuple[str, int, int | None]] = [
            *zip(self._live, reservation.slots, reservation.old_slots, strict=True)
        ]
        if reservation.base_slot is not None:
            places.append((BASE, reservation.base_slot, None))
        for name, slot, old in places:
            self._gate(name).write(slot, like=old, clear=old is None)
        return {slot: equal_gates(self._meteora.groups, slot) for _, slot, _ in places}

    def _publish(self, reservation: _native.GateReservation, equal: Mapping[int, list[bool]]) -> None:
        meteora = self._meteora
        given = [(self._gate(name).kind, self._routable(name)) for name in self._live]
        base = self._changes[BASE] is not None if BASE in self._changes else None
        meteora._share_gates(equal)  # before a request can read the slots
        for name, copy in self._resting.items():
            rows, _ = self._gate(name).parts()
            assert meteora.tiers is not None and rows is not None
            meteora.tiers.native.set_gates(copy, self._gate(name).kind, self._routable(name), rows)
        meteora._registry.publish_gates(reservation, given, base)

    def _gate(self, name: str) -> Gate:
        change = self._changes[name]
        assert change is not None
        return change[0]

    def _routable(self, name: str) -> bool:
        change = self._changes[name]
        return change is not None and change[1]
