"""What everything that is done to an attached model stands on: its sites, and who is live."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor, nn

from meteora_rs import _native
from meteora_rs.attached.forked import renew_in_children
from meteora_rs.attached.patch import Patch
from meteora_rs.attached.record import GIVEN, AdapterRecord
from meteora_rs.attached.times import Times
from meteora_rs.config import MeteoraConfig
from meteora_rs.errors import AdapterInUseError, MeteoraError
from meteora_rs.routes import BASE
from meteora_rs.routing.context import RoutingContext
from meteora_rs.sites.groups import InputGroup
from meteora_rs.sites.site import Site

LOADERS = 2
"""Threads for loads that are awaited, of their own: an event loop's may all be busy generating."""


class Attached:
    """A model with sites, and the adapters that are live on its device; the parts of `Meteora` are its subclasses."""

    def __init__(self, patch: Patch, registry: _native.Registry, config: MeteoraConfig, element_size: int) -> None:
        self.config = config
        self.element_size = element_size
        """Bytes of the element in which `config.pool_rank` is counted: the model's when it was attached."""
        self.groups: list[InputGroup] = patch.groups
        self.sites: list[Site] = patch.sites
        self._patch = patch
        self._registry = registry
        self._context: RoutingContext = patch.context
        # Whoever publishes holds it for that moment; what is long (parsing, writing) comes before. No request takes it.
        self._writer: threading.Lock
        self._fitting: threading.Lock
        self._loaders: ThreadPoolExecutor
        self._admitting: ThreadPoolExecutor
        self.times = Times()
        """What each stage of the loads took."""
        self._make_threads()
        renew_in_children(self)

    def _make_threads(self) -> None:
        """Make locks and threads; again in each child that is forked, which has none of its parent's threads, and where
        nobody would open its locks.

        A child has the adapters that were live at the fork, and what either process changes, it changes for itself.
        That holds where no load, reload or change of gates runs at the moment of the fork.
        """
        self._writer, self._fitting = threading.Lock(), threading.Lock()
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="meteora-load")
        # The first of a queue alone works; of their own, because a load that waits for room keeps a loader.
        self._admitting = ThreadPoolExecutor(1, thread_name_prefix="meteora-admit")
        self._context.lock = threading.RLock()

    @property
    def model(self) -> nn.Module:
        """The model that this is attached to.

        Raises:
            MeteoraError: it has been detached.
        """
        return self._patch.model

    def adapters(self) -> list[AdapterRecord]:
        """The live adapters, in slot order."""
        return [AdapterRecord(**record) for record in self._registry.records()]

    def adapter(self, name: str) -> AdapterRecord:
        """The live adapter of this name or alias.

        Raises:
            AdapterNotFoundError: no such adapter.
        """
        return AdapterRecord(**self._registry.record(name))

    @property
    def base_is_class(self) -> bool:
        """Whether the gates may choose the base: tokens that belong to no adapter then get none."""
        return self._registry.base_slot is not None

    def _hold(self) -> tuple[_native.Hold, list[AdapterRecord]]:
        """The live adapters, and what keeps their slots and rows as they are; for who has the writer lock, so that what
        is listed is what is held, and no gates are being written in place.

        Raises:
            AdapterInUseError: an adapter is being reloaded in its own place.
        """
        hold, records = self._registry.hold(), self.adapters()
        if gone := {record.slot for record in records} - set(hold.slots()):
            name = next(record.name for record in records if record.slot in gone)
            raise AdapterInUseError(
                f"adapter {name!r} is in use: it is being reloaded in its own place; try again later"
            )
        return hold, records

    def _given_slots(self, records: list[AdapterRecord]) -> dict[str, int]:
        """Where the gate rows are that do not follow from the weights, the base's included."""
        slots = {record.name: record.slot for record in records if record.gate in GIVEN}
        base_slot = self._registry.base_slot
        return slots if base_slot is None else {**slots, BASE: base_slot}

    def _gate_rows(self, slot: int) -> dict[str, tuple[Tensor, float]]:
        return {site.path: (site.gate[slot].detach().clone(), float(site.gate_bias[slot])) for site in self.sites}

    def _share_gates(self, written: Mapping[int, list[bool]] | None = None) -> None:
        """Note for each input group whether its rows are equal for all slots in use: one evaluation then serves.

        `written`: by slot that is about to be published, `equal_gates` of it.
        """
        written = written or {}
        readable = None  # running requests may hold slots that no live adapter has
        if not self._registry.stats()["slots"]["held"]:
            base_slots = range(self.config.max_adapters, self._registry.slots)
            readable = {record.slot for record in self.adapters() if record.routable} | {*written, *base_slots}
        for index, group in enumerate(self.groups):
            for slot, equal in written.items():
                group.note(slot, equal[index])
            group.share(readable)

    def _require_attached(self) -> None:
        if not self._patch.active:
            raise MeteoraError("this Meteora has been detached from its model; attach() again")

    def __deepcopy__(self, memo: dict[int, object]) -> Attached:
        raise MeteoraError("a Meteora can't be copied: attach() to the copy of the model instead")
