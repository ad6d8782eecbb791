"""An attached model, and the adapters that it may bring to its device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from meteora_rs import _native
from meteora_rs.attached.attached import Attached
from meteora_rs.attached.patch import Patch
from meteora_rs.config import MeteoraConfig
from meteora_rs.routes import NativeRoute
from meteora_rs.tiers import Admission, Tiers


class Served(Attached):
    """What is live, and what is registered beyond that where there is a host tier."""

    def __init__(self, patch: Patch, registry: _native.Registry, config: MeteoraConfig, element_size: int) -> None:
        super().__init__(patch, registry, config, element_size)
        self.tiers = Tiers(self, config.host_bytes) if config.host_bytes else None
        """Adapters that are registered and not on the device (`MeteoraConfig(host_bytes=…)`)."""
        if self.tiers is not None:
            self._context.admit = self._admit

    def _rests(self, name: str) -> bool:
        """Whether an adapter is registered and not on the device."""
        return self.tiers is not None and self.tiers.rests(name)

    def _brought(self, name: str) -> AbstractContextManager[object]:
        """Inside the block an adapter that is registered is on the device.

        Raises:
            CapacityError: no room within `admission_timeout`.
        """
        if self.tiers is None or not self.tiers.rests(name):
            return nullcontext()
        return self._admit([("named", [name], [])])

    def _admit(self, routes: Sequence[NativeRoute], within: _native.RoutePlan | None = None) -> Admission:
        """What a request with these routes goes through before it has its plan, inside a block with `within`."""
        assert self.tiers is not None
        return Admission(self, self.tiers, routes, within)
