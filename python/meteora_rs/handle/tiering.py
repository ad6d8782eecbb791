"""Registering adapters beyond what the pools hold, and bringing them in ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from meteora_rs import _native, gate_kinds
from meteora_rs.attached.record import AdapterRecord
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError, MeteoraError, RouteError
from meteora_rs.files.source import AdapterSource, parse
from meteora_rs.gate_kinds.tensors import Row
from meteora_rs.handle.loading import Loading
from meteora_rs.routes import GROUP_MARK
from meteora_rs.serving.caution import warn_of_missing
from meteora_rs.tiers import Admission, Tiers


class Tiering(Loading):
    """Adapters that wait in the host's memory until a request asks for them (`MeteoraConfig(host_bytes=…)`)."""

    def register_adapter(
        self,
        source: AdapterSource,
        adapter_name: str,
        *,
        gate: str | Mapping[str, Row] = "arrow",
        revision: str | None = None,
    ) -> AdapterRecord:
        """Check an adapter and copy it to the host's memory; a request that names it brings it to the device.

        A name, a `Mix` or an `Auto(only=…)` brings it in when the request begins; `Auto()` chooses among those that
        are on the device. Whether it stays there is decided by use: the one not named for longest goes first.

        Args: as `load_adapter`, which also brings it in; a row from examples takes that.

        Warns: as `load_adapter`.

        Raises:
            MeteoraError: there is no host tier.
            AdapterInUseError: the name is taken.
            CapacityError: the host's budget, with what can't leave it. Others as `load_adapter`.
        """
        tiers = self._host()
        self._require_attached()
        self._require_free(adapter_name)
        with self.times.stage("parse"):
            adapter = parse(self._registry, source, adapter_name, revision)
        prepared = gate_kinds.resolve(gate, adapter, self.sites)
        warn_of_missing(adapter)
        copy = tiers.pack(adapter, source, revision, prepared)
        try:
            with self._writer:
                self._require_attached()
                self._require_free(adapter_name)
                return tiers.keep(copy)
        finally:
            copy.native.abandon()

    def prefetch(self, adapter_names: Sequence[str]) -> None:
        """Bring adapters to the device, all together, as a request would that names them.

        Raises:
            MeteoraError: there is no host tier.
            AdapterNotFoundError: a name or alias that is not registered.
            RouteError: there is no such group.
            CapacityError: no room within `admission_timeout`.
        """
        with self._admission(adapter_names):
            pass

    async def aprefetch(self, adapter_names: Sequence[str]) -> None:
        """As `prefetch`, without holding up the event loop.

        Raises:
            asyncio.CancelledError: cancelled; what was being brought in may still come.
        """
        admission = self._admission(adapter_names)
        await admission.enter_async()
        admission.leave()

    def registered_adapters(self) -> list[AdapterRecord]:
        """All adapters that a request may name: those on the device, then the others by name, each with its tier.

        Of those not on the device, `slot` is -1.
        """
        return [*self.adapters(), *(self.tiers.resting() if self.tiers is not None else ())]

    @contextmanager
    def _kept_on_device(self, names: Iterable[str]) -> Iterator[None]:
        """Inside the block these adapters are on the device, and no request of others has one go.

        Raises:
            CapacityError: the pools don't hold them all.
        """
        kept: list[_native.Kept] = []
        try:
            for name in names:
                if self.tiers is not None and self.tiers.knows(name):
                    with self._brought(name), self._writer:
                        self._require_attached()
                        kept.append(self._registry.keep(name))
            yield
        finally:
            kept.clear()  # who keeps the traceback keeps the list

    def _host(self) -> Tiers:
        if self.tiers is None:
            raise MeteoraError("there is no host tier: attach with MeteoraConfig(host_bytes=…)")
        return self.tiers

    def _require_free(self, name: str) -> None:
        live = any(record.name == name for record in self.adapters())
        if live or self._host().knows(name) or name in self._registry.aliases():
            raise AdapterInUseError(
                f"adapter {name!r} is in use: an adapter or an alias has this name; reload_adapter() replaces one"
            )

    def _admission(self, names: Sequence[str]) -> Admission:
        self._host()
        self._require_attached()
        listed = [names] if isinstance(names, str) else list(names)
        groups = self._registry.groups()
        for name in listed:
            if name.startswith(GROUP_MARK) and name.removeprefix(GROUP_MARK) not in groups:
                raise RouteError(f"there is no group {name!r}; set_group() makes one")
        admission = self._admit([("only", listed, [])])
        if unknown := admission.unknown:
            raise AdapterNotFoundError(f"no adapter named {unknown[0]!r} is registered")
        return admission
