"""Loading, reloading, unloading, pinning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meteora_rs import gates
from meteora_rs.gates import GateSource
from meteora_rs.gates.tensors import Row
from meteora_rs.handle.gating import GIVEN, Gating
from meteora_rs.handle.record import AdapterRecord
from meteora_rs.source import AdapterSource, parse


class Loading(Gating):
    """Adapters come, change and go while requests run."""

    def load_adapter(
        self,
        source: AdapterSource,
        adapter_name: str,
        *,
        gate: GateSource = "arrow",
        revision: str | None = None,
        tokenizer: Any = None,
    ) -> AdapterRecord:
        """Load a PEFT LoRA adapter; requests that begin afterwards can use it, none that runs is disturbed.

        Args:
            source: a PEFT folder, a hub id, or `{"config": …, "tensors": state_dict}`.
            adapter_name: 1 to 128 of A-Z a-z 0-9 . _ -, not beginning with . - or __.
            gate: `"arrow"` (zero-shot, a stopgap until `fit_gates`), `"none"` (used by name only), a list of 8 to 64
                texts or (prompt, response) pairs (a row in seconds, from what the last fit kept of the others; see
                `gates.examples`), or a dict of tensors `{site path: row [in]}` or `{site path: (row, bias)}`.
            revision: of a hub id.
            tokenizer: for a list of texts; the model's own by default.

        Raises:
            MeteoraError: a list of texts, and no fit has kept statistics.
            AdapterFormatError, AdapterUnsupportedError: what is wrong with which tensor of which file.
            AdapterInUseError: the name is taken; use `reload_adapter`.
            CapacityError: no free slot, or not enough rank rows.
            OSError: the files can't be read.
        """
        return self._load_any(source, adapter_name, gate, revision, tokenizer, reload=False)

    def reload_adapter(
        self,
        adapter_name: str,
        source: AdapterSource,
        *,
        gate: GateSource | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
    ) -> AdapterRecord:
        """Replace a live adapter's weights in one step; running requests keep the old ones, bit for bit.

        Its gate rows stay as they are, unless `gate` is given or they are Arrow's, which follow the weights. Where
        the pools have no room for a second generation, and no request holds the old one, the new one takes its
        place: until it is written, requests for this name get an AdapterInUseError, and `Auto()` chooses among the
        others.

        Raises:
            AdapterNotFoundError: no such adapter. Others as `load_adapter`; the old weights then stay live.
        """
        return self._load_any(source, adapter_name, gate, revision, tokenizer, reload=True)

    def _load_any(
        self,
        source: AdapterSource,
        name: str,
        gate: GateSource | None,
        revision: str | None,
        tokenizer: Any,
        reload: bool,
    ) -> AdapterRecord:
        if gate is None or isinstance(gate, (str, Mapping)):
            return self._load(source, name, gate, revision, reload=reload)
        from meteora_rs.gates.examples import load_with_examples

        return load_with_examples(self._whole, source, name, gate, revision, tokenizer, reload=reload)

    def _load(
        self,
        source: AdapterSource,
        name: str,
        gate: str | Mapping[str, Row] | None,
        revision: str | None,
        *,
        reload: bool,
        kind: str | None = None,
    ) -> AdapterRecord:
        self._require_attached()
        adapter = parse(self._registry, source, name, revision)
        with self._writer:
            self._require_attached()  # parsing takes a while
            if gate is None and not reload:
                raise ValueError('gate must be "arrow", "none", a list of texts or a dict of tensors, not None')
            if gate is None:
                old = self.adapter(name)
                gate = self._gate_rows(old.slot) if old.gate in GIVEN else old.gate
                prepared = gates.resolve(gate, adapter, self.sites)
                prepared.kind = old.gate
            else:
                prepared = gates.resolve(gate, adapter, self.sites)
                prepared.kind = kind or prepared.kind

            def write(slot: int) -> None:
                prepared.write(slot)
                self._share_gates([slot])  # before a request can read the slot

            self._context.release_default()
            try:
                reservation = self._registry.reserve(adapter, reload)
                try:
                    record = self._registry.publish(
                        reservation,
                        adapter,
                        [site.kernel for site in self.sites],
                        prepared.kind,
                        prepared.kind != "none",
                        write,
                    )
                finally:
                    reservation.abandon()
                self._share_gates()
            finally:
                self._context.refresh()
        return AdapterRecord(**record)

    def unload_adapter(self, adapter_name: str) -> None:
        """Retire an adapter; its rows are free when the last request that began with it has ended.

        Raises:
            AdapterNotFoundError: no such adapter.
            AdapterInUseError: it is pinned.
        """
        with self._writer:
            self._require_attached()
            self._registry.unload(adapter_name)
            self._context.refresh()
            self._share_gates()

    def pin_adapter(self, adapter_name: str, pinned: bool = True) -> None:
        """Protect an adapter from unloading and eviction, or no longer.

        Raises:
            AdapterNotFoundError: no such adapter.
        """
        with self._writer:
            self._require_attached()
            self._registry.pin(adapter_name, pinned)
