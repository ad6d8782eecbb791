"""One load, stage by stage: parse, check, warn, reserve, write, publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from meteora_rs import _native, gate_kinds
from meteora_rs.attached.record import GIVEN, AdapterRecord
from meteora_rs.errors import CapacityError
from meteora_rs.files.source import AdapterSource, parse
from meteora_rs.gate_kinds import Gate
from meteora_rs.gate_kinds.tensors import Row
from meteora_rs.serving.cancel import Cancellation, Stopped
from meteora_rs.serving.caution import warn_of_missing
from meteora_rs.serving.served import Served
from meteora_rs.sites.groups import equal_gates

MakeRows: TypeAlias = Callable[[_native.Adapter, Cancellation], Mapping[str, Row]]
"""Makes the gate rows of an adapter that has been checked, for which it may have to be seen at work."""


class Load:
    """An adapter on its way in: what is long in any thread, without a lock that a request takes.

    `check` parses, `warn` speaks to the caller, in whose thread it is called, `prepare` reserves and writes; the long
    parts run without the GIL. `publish` is the one step after which requests see it; before, `abandon` leaves nothing
    behind.
    """

    def __init__(
        self,
        meteora: Served,
        source: AdapterSource,
        name: str,
        gate: str | Mapping[str, Row] | MakeRows | None,
        *,
        revision: str | None = None,
        reload: bool = False,
        if_generation: int | None = None,
        published: Callable[[], None] = lambda: None,
    ) -> None:
        self._meteora, self._source, self._name, self._gate = meteora, source, name, gate
        self._revision, self._reload, self._if_generation = revision, reload, if_generation
        self._published = published
        self._given: Gate | None = None
        self._reservation: _native.Reservation | None = None
        self._prepared: Gate | None = None

    def run(self) -> AdapterRecord:
        """All stages in this thread. Raises: as `Meteora.load_adapter`."""
        self.check()
        self.warn()
        return self.prepare(Cancellation()).publish()

    def check(self) -> Load:
        """Parse it, and check all that needs no place; nothing is taken or changed.

        Raises: as `Meteora.load_adapter`.
        """
        meteora = self._meteora
        if self._gate is None and not self._reload:
            raise ValueError('gate must be "arrow", "none", a list of texts or a dict of tensors, not None')
        with meteora.times.stage("parse"):
            self._adapter = parse(meteora._registry, self._source, self._name, self._revision)
        if self._gate is not None and not callable(self._gate):
            self._given = gate_kinds.resolve(self._gate, self._adapter, meteora.sites)
        return self

    def warn(self) -> None:
        """Warn of what it lacks, before anybody makes room for it: a filter may make that an error.

        Warns:
            UserWarning: linears that its config targets have no tensors.
        """
        warn_of_missing(self._adapter)

    def prepare(self, cancellation: Cancellation) -> Load:
        """Write what has been checked where nobody reads; on any error nothing has happened.

        Raises:
            Stopped: cancelled. Others as `Meteora.load_adapter`.
        """
        self._make_gate(cancellation)
        cancellation.hold()
        try:
            self._reservation = self._reserve(cancellation)
            cancellation.writing(self._reservation)
            prepared = self._given or self._kept_gate()
            self._before_writing(prepared)
            self._prepared = prepared
            self._write(cancellation)
        except BaseException as error:
            taken_over = self._reservation is not None and self._reservation.in_place
            if taken_over and self._prepared and not isinstance(error, Exception):
                # Ctrl-C, when half of it may have been written over the old rows: to the end, then out.
                self._write(Cancellation())
                self.publish()
            self.abandon()
            if self._reload:  # what has stood aside for it is back
                with self._meteora._writer:
                    self._meteora._context.refresh()
            raise
        return self

    @contextmanager
    def seated(self, cancellation: Cancellation) -> Iterator[int]:
        """Inside the block the rank rows of what has been checked are in a slot that nobody knows: which one, for who
        looks at what they do. Nothing of it stays.

        Raises: as `prepare`.
        """
        try:
            self._reservation = self._reserve(cancellation)
            cancellation.writing(self._reservation)
            self._write_rows()
            yield self._reservation.slot
        finally:
            self.abandon()

    def _make_gate(self, cancellation: Cancellation) -> None:
        """Have the gate made, if it is one that is."""
        if self._given is None and callable(self._gate):
            rows = self._gate(self._adapter, cancellation)
            self._given = gate_kinds.TensorGate(self._name, rows, self._meteora.sites, "examples")

    def _before_writing(self, gate: Gate) -> None:
        """What a subclass does when all has been checked; it may refuse."""

    def _make_live(self) -> dict[str, Any]:
        """The one step, under the writer's lock; the adapter's record."""
        reservation, gate = self._reservation, self._prepared
        assert reservation is not None and gate is not None
        return self._meteora._registry.publish(reservation, self._adapter, gate.kind, gate.kind != "none")

    def _write_rows(self) -> None:
        meteora, reservation = self._meteora, self._reservation
        assert reservation is not None
        with meteora.times.stage("pack"):
            if not reservation.write_rows(self._adapter, [site.kernel for site in meteora.sites]):
                raise Stopped

    def _write(self, cancellation: Cancellation) -> None:
        self._write_rows()
        meteora, reservation, gate = self._meteora, self._reservation, self._prepared
        assert reservation is not None and gate is not None
        if not reservation.in_place:
            cancellation.check()
        with meteora.times.stage("gate"):
            gate.write(reservation.slot)
            self._equal = equal_gates(meteora.groups, reservation.slot)

    def publish(self) -> AdapterRecord:
        """Let requests that begin from now on see it.

        Raises:
            MeteoraError: the handle has been detached.
        """
        meteora, reservation = self._meteora, self._reservation
        assert reservation is not None
        try:
            with meteora._writer, meteora.times.stage("publish"):
                meteora._require_attached()  # the stages before take a while
                meteora._share_gates({reservation.slot: self._equal})  # before a request can read the slot
                try:
                    record = self._make_live()
                    meteora._share_gates()
                finally:
                    meteora._context.refresh()
                self._published()
        finally:
            self.abandon()
        return AdapterRecord(**record)

    def abandon(self) -> None:
        """Give back what is not published."""
        reservation, self._reservation = self._reservation, None
        if reservation is not None:
            reservation.abandon()

    def cancelled(self) -> None:
        """End it where nobody waits for it any more: what has been written over its own place must be published."""
        if self._reservation is not None and self._reservation.in_place:
            self.publish()
        self.abandon()

    def _reserve(self, cancellation: Cancellation) -> _native.Reservation:
        """A fresh place; for a reload without one its own, if nobody else reads that."""
        meteora = self._meteora
        args = self._adapter, self._reload, self._if_generation
        try:
            return meteora._registry.reserve(*args)
        except CapacityError:
            pass
        # The default plan holds the old generation; after a change that was interrupted, what has gone. It must not
        # come back meanwhile.
        with meteora._writer, meteora._context.without_default():
            return meteora._registry.reserve(*args)

    def _kept_gate(self) -> Gate:
        """The gate that the adapter has, for its new weights; it can't change meanwhile."""
        old = self._meteora.adapter(self._name)
        rows = self._meteora._gate_rows(old.slot) if old.gate in GIVEN else old.gate
        gate = gate_kinds.resolve(rows, self._adapter, self._meteora.sites)
        gate.kind = old.gate
        return gate
