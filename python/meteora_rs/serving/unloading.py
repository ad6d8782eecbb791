"""Retiring adapters, and waiting for their memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

from meteora_rs import _native
from meteora_rs.errors import AdapterInUseError
from meteora_rs.routing.leases import HeldSnapshot
from meteora_rs.serving.served import Served

SLICE = 0.05
"""Seconds of a wait between two looks at signals (Ctrl-C)."""


@dataclass(frozen=True)
class Unloaded:
    """What became of an unloaded adapter: whether its slot and rows are free again, and if not, who holds them.

    As a truth value it is `memory_free`. `held_by` may be empty where memory is not free yet: then the last reader is
    letting go.
    """

    memory_free: bool
    held_by: tuple[HeldSnapshot, ...]

    def __bool__(self) -> bool:
        return self.memory_free


class Unloading(Served):
    """Adapters go."""

    def unload_adapter(self, adapter_name: str, *, wait: float | None = None) -> Unloaded:
        """Retire an adapter: requests that begin afterwards don't know it; its memory is free when the last ends.

        Nothing can force that: a running request keeps what it began with. `wait`: seconds to wait for it at most. A
        caller that waits for a request of its own waits in vain.

        Raises:
            ValueError: `wait` is negative.
            AdapterNotFoundError: no such adapter.
            AdapterInUseError: it is pinned, being changed, or an alias points to it.
        """
        retired = self._retire(adapter_name, wait)
        if retired is None:
            return Unloaded(True, ())
        if wait is not None:
            with self.times.stage("wait"):
                end = time.monotonic() + wait
                while not retired.wait(min(SLICE, max(0.0, end - time.monotonic()))) and time.monotonic() < end:
                    pass
        return self._unloaded(retired)

    def _retire(self, name: str, wait: float | None) -> _native.Retired | None:
        """Retire an adapter; None: it was registered only, and held no place on the device."""
        if wait is not None and not wait >= 0:
            raise ValueError(f"wait must be 0 or more seconds, or None, not {wait}")
        with self._writer:
            self._require_attached()
            if self.tiers is not None and self._rests(name):
                self._require_no_alias(name)
                self.tiers.forget(name)
                self._forget_texts(name)
                return None
            try:
                retired = self._registry.unload(name)
                if self.tiers is not None:
                    self.tiers.forget(name)
            finally:
                self._context.refresh()
            self._share_gates()
            self._forget_texts(name)
        return retired

    def _forget_texts(self, name: str) -> None:
        """What is kept of an adapter that has left goes with it, where anything is; for who has the writer lock."""

    def _require_no_alias(self, name: str) -> None:
        for alias, target in self._registry.aliases().items():
            if target == name:
                raise AdapterInUseError(
                    f"adapter {name!r} is in use: the alias {alias!r} points to it; set_alias() or remove_alias() first"
                )

    def _unloaded(self, retired: _native.Retired) -> Unloaded:
        free = retired.wait(0)
        leases = [] if free else self._context.leases.living()
        return Unloaded(free, tuple(each.describe() for each in leases if retired.is_held_by(each.hold)))
