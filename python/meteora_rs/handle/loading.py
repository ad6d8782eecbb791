"""Loading, reloading, pinning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from meteora_rs.attached.record import AdapterRecord
from meteora_rs.files.source import AdapterSource
from meteora_rs.gate_kinds import GateSource
from meteora_rs.gates.gated import Gated
from meteora_rs.serving.load import Load


class Loading(Gated):
    """Adapters come and change while requests run."""

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

        Warns:
            UserWarning: linears that the adapter's config targets have no tensors, and stay as the base has them.

        Raises:
            MeteoraError: a list of texts, and no fit has kept statistics.
            AdapterFormatError, AdapterUnsupportedError: what is wrong with which tensor of which file.
            AdapterInUseError: the name is taken, by an adapter (use `reload_adapter`) or an alias.
            CapacityError: no free slot, or not enough rank rows.
            ValueError: no such kind of gate, too few texts, or a `revision` of what is no hub id.
            OSError: the files can't be read.
        """
        return self._load(source, adapter_name, gate, revision, tokenizer, reload=False).run()

    def reload_adapter(
        self,
        adapter_name: str,
        source: AdapterSource,
        *,
        gate: GateSource | None = None,
        revision: str | None = None,
        tokenizer: Any = None,
        if_generation: int | None = None,
    ) -> AdapterRecord:
        """Replace a live adapter's weights in one step; running requests keep the old ones, bit for bit.

        Its gate rows stay as they are, unless `gate` is given or they are Arrow's, which follow the weights. Where
        the pools have no room for a second generation, and no request holds the old one, the new one takes its
        place: until it is written, requests for this name get an AdapterInUseError, and `Auto()` chooses among the
        others.

        Args:
            if_generation: replace only this generation (`adapter(name).generation`): compare and swap.

        Raises:
            AdapterNotFoundError: no such adapter.
            AdapterInUseError: its generation is not `if_generation`, or it is being changed by another call.
                Others as `load_adapter`; the old weights then stay live.
        """
        load = self._load(source, adapter_name, gate, revision, tokenizer, reload=True, if_generation=if_generation)
        return load.run()

    def pin_adapter(self, adapter_name: str, pinned: bool = True) -> None:
        """Protect an adapter from unloading and eviction, or no longer; one that is not on the device is brought in.

        Raises:
            AdapterNotFoundError: no such adapter.
            AdapterInUseError: it is being changed by another call, or the name is an alias.
        """
        with self._brought(adapter_name) if pinned else nullcontext(), self._writer:
            self._require_attached()
            self._registry.pin(adapter_name, pinned)

    def _load(
        self,
        source: AdapterSource,
        name: str,
        gate: GateSource | None,
        revision: str | None,
        tokenizer: Any,
        *,
        reload: bool,
        if_generation: int | None = None,
    ) -> Load:
        """The load, of which nothing is done yet."""
        self._require_attached()
        if gate is None or isinstance(gate, (str, Mapping)):
            return self._load_class(
                self, source, name, gate, revision=revision, reload=reload, if_generation=if_generation
            )
        from meteora_rs.gates.examples import load_with_examples

        return load_with_examples(
            self, source, name, gate, revision, tokenizer, reload=reload, if_generation=if_generation
        )
