"""An attached model: load adapters, route requests, look at what happened."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from meteora_rs import _native, gates
from meteora_rs.config import MeteoraConfig
from meteora_rs.context import Plan, RoutingContext
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, MeteoraError
from meteora_rs.gates import GateSource
from meteora_rs.gates.tensors import Row
from meteora_rs.groups import InputGroup
from meteora_rs.patch import Patch
from meteora_rs.routes import BASE, Auto, Route
from meteora_rs.site import Site
from meteora_rs.source import AdapterSource, parse
from meteora_rs.trace import Trace

if TYPE_CHECKING:
    from meteora_rs.gates.fit import FitReport
    from meteora_rs.gates.fit.kept import KeptStatistics

GIVEN = ("tensors", "fitted", "examples")
"""Kinds of gate that a reload leaves as they are and a bundle holds; the others follow from the weights."""


@dataclass(frozen=True)
class AdapterRecord:
    """A live adapter: what `Meteora.adapters()` lists.

    `bytes` are those of its weights; `tier` says where they are; `gate` where its gate rows come from (`arrow` is a
    stopgap, `examples` a row from a few texts, `fitted` one from a whole fit); `routable` whether `Auto` may choose it;
    `generation` grows with each change of weights or gate.
    """

    name: str
    id: int
    generation: int
    slot: int
    rank: int
    dtype: str
    bytes: int
    sites: int
    pinned: bool
    gate: str
    routable: bool
    source: str
    tier: str = "device"


class Meteora:
    """The handle that `attach` returns; one for each model."""

    def __init__(self, patch: Patch, registry: _native.Registry, config: MeteoraConfig, element_size: int) -> None:
        self.config = config
        self.element_size = element_size
        """Bytes of the element in which `config.pool_rank` is counted: the model's when it was attached."""
        self.groups: list[InputGroup] = patch.groups
        self.sites: list[Site] = patch.sites
        self._patch = patch
        self._registry = registry
        self._context: RoutingContext = patch.context
        # One writer: loads, reloads, unloads and gate changes come one after the other; requests never wait for it.
        self._writer = threading.Lock()
        self.statistics: KeptStatistics | None = None
        """What the last fit kept for adapters that come with a few examples (`load_adapter(gate=[…])`)."""

    @property
    def model(self) -> nn.Module:
        """The model that this is attached to.

        Raises:
            MeteoraError: it has been detached.
        """
        return self._patch.model

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

        return load_with_examples(self, source, name, gate, revision, tokenizer, reload=reload)

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

    def adapters(self) -> list[AdapterRecord]:
        """The live adapters, in slot order."""
        return [AdapterRecord(**record) for record in self._registry.records()]

    def adapter(self, name: str) -> AdapterRecord:
        """The live adapter of this name.

        Raises:
            AdapterNotFoundError: no such adapter.
        """
        return AdapterRecord(**self._registry.record(name))

    def stats(self) -> dict[str, Any]:
        """Slots, rank rows and pages (total, live, pending, held by running requests, free), and bytes reserved."""
        buffers = [buffer for site in self.sites for buffer in site.buffers()]
        reserved = sum(buffer.numel() * buffer.element_size() for buffer in buffers)
        live = sum(record.bytes for record in self.adapters())
        return {**self._registry.stats(), "bytes_reserved": reserved, "bytes_live": live}

    @contextmanager
    def routing(
        self, routes: Route | Sequence[Route], *, top_k: int | None = None, temperature: float | None = None
    ) -> Iterator[None]:
        """Route what runs inside the block: one route for all rows, or a list with one for each row.

        A route is `Auto()`, `Auto(only=[…])`, an adapter's name, `Mix({name: weight})` or `"__base__"`. The block
        sees the adapters that are live now until it ends. Holds for this thread or asyncio task; blocks nest.
        `top_k` and `temperature` replace the config's inside the block.

        Raises:
            ValueError: `top_k` or `temperature` is out of range.
            AdapterNotFoundError: a name that no live adapter has.
            AdapterInUseError: an adapter that is being reloaded in its own place; try again (see `reload_adapter`).
            RouteError: an empty list, a weight that is negative or not finite, an `only` that names an adapter
                without a gate, or (in the forward pass) rows that do not match the batch.
        """
        self._require_attached()
        changed: dict[str, Any] = {"top_k": top_k, "temperature": temperature}
        replace(self.config, **{key: value for key, value in changed.items() if value is not None})  # checks them
        listed: Sequence[Route] = [routes] if isinstance(routes, str) or not isinstance(routes, Sequence) else routes
        with self._context.enter(self._context.plan(listed, self._context.current().trace, top_k, temperature)):
            yield

    @contextmanager
    def trace(self) -> Iterator[Trace]:
        """Record, for what runs inside the block, which adapter with which weight served each token and linear.

        Like `routing()`, the block sees the adapters that are live now until it ends, and holds them: their rows are
        not free, and gates can't change, before that. The `Trace` itself holds none.
        """
        self._require_attached()
        trace = Trace([site.path for site in self.sites])
        current = self._context.current()
        default = self._context.is_default()
        plan = self._context.plan([Auto()], trace) if default else Plan(current.native, trace)
        with self._context.enter(plan):
            yield trace

    def set_gates(self, rows: Mapping[str, Mapping[str, Row] | None], *, kind: str = "fitted") -> None:
        """Replace the gate rows of live adapters, all or none; `"__base__"` makes the base a class of its own.

        Args:
            rows: for each adapter, `{site path: (row [in] float32, bias)}`, as in `load_adapter(gate=…)`. None for
                `"__base__"`: the base is no class any more, and every token gets adapters again.
            kind: what `adapters()` shall say of them.

        Raises:
            AdapterNotFoundError, AdapterFormatError: a name or a row is wrong.
            AdapterInUseError: a request is running: gate rows change in place, between requests.
        """
        if kind not in GIVEN:
            raise ValueError(f"kind must be one of {', '.join(GIVEN)}, not {kind!r}")
        with self._writer, self._context.lock:
            self._require_attached()
            slots = {name: self._registry.slots - 1 if name == BASE else self.adapter(name).slot for name in rows}
            if nothing := [name for name, each in rows.items() if each is None and name != BASE]:
                raise AdapterFormatError(f"adapter {nothing[0]!r}: gate rows are needed, not None; only the base's go")
            prepared = {
                name: gates.TensorGate(name, each, self.sites, kind) for name, each in rows.items() if each is not None
            }
            self._context.release_default()
            try:
                if self._registry.readers():
                    raise AdapterInUseError("gates change in place, between requests: close every routing() first")
                for name, gate in prepared.items():
                    gate.write(slots[name])
                for name in rows:
                    if name == BASE:
                        self._registry.set_base_routable(name in prepared)
                    else:
                        self._registry.set_gate(name, kind, True)
                self._share_gates(slots.values())
            finally:
                self._context.refresh()

    def gate_rows(self) -> dict[str, dict[str, tuple[Tensor, float]]]:
        """The gate rows in use, in the form of `set_gates`; adapters with Arrow's or no gate are left out."""
        rows = {r.name: self._gate_rows(r.slot) for r in self.adapters() if r.gate in GIVEN}
        if self.base_is_class:
            rows[BASE] = self._gate_rows(self._registry.slots - 1)
        return rows

    @property
    def base_is_class(self) -> bool:
        """Whether the gates may choose the base: tokens that belong to no adapter then get none."""
        return self._registry.base_routable

    def _gate_rows(self, slot: int) -> dict[str, tuple[Tensor, float]]:
        return {site.path: (site.gate[slot].detach().clone(), float(site.gate_bias[slot])) for site in self.sites}

    def _share_gates(self, changed: Iterable[int] = ()) -> None:
        """Note for each input group whether its rows are equal for all slots in use: one evaluation then serves."""
        changed = set(changed)
        readable = None  # running requests may hold slots that no live adapter has
        if not self._registry.stats()["slots"]["held"]:
            readable = {record.slot for record in self.adapters() if record.routable} | changed
            if self.base_is_class:
                readable.add(self._registry.slots - 1)
        for group in self.groups:
            group.share(changed, readable)

    def fit_gates(self, data: Mapping[str, Iterable[str] | Iterable[tuple[str, str]]], **options: Any) -> FitReport:
        """Fit the gates of live adapters on examples of their work, in closed form (see `meteora_rs.gates.fit`).

        Args:
            data: for each adapter texts or (prompt, response) pairs; `"__base__"`: general text that no adapter
                should touch.
            options: `base=None` for no class of the base's, `tokenizer`, `passes`, `shrinkage`, `temperature`,
                `memory_budget`, `seed`, `progress`; see `gates.fit.fit_gates`.
        """
        from meteora_rs.gates.fit import fit_gates

        self._require_attached()
        texts: dict[str, Any] = {name: each if isinstance(each, str) else list(each) for name, each in data.items()}
        return fit_gates(self, texts, **options)

    def save_pretrained(self, folder: str | Path, *, statistics: bool = True) -> None:
        """Write adapters, gates and config as a bundle that `attach_pretrained` reads (see `meteora_rs.bundle`).

        With `statistics` also what the last fit kept, if there was one: `load_adapter(gate=[…])` needs it. Requests run
        on meanwhile; loads and unloads wait.

        Raises:
            MeteoraError: `folder` exists and is no bundle, or holds more than one; it is, or holds, the working
                directory; or this handle was detached.
            OSError: it can't be written.
        """
        from meteora_rs.bundle import save_bundle

        with self._writer:  # what is listed must be there when it is read
            self._require_attached()
            save_bundle(self, folder, statistics=statistics)

    def detach(self) -> None:
        """Give the model back, bit for bit what it was; this handle is of no use afterwards."""
        with self._writer:
            self._patch.remove()

    def _require_attached(self) -> None:
        if not self._patch.active:
            raise MeteoraError("this Meteora has been detached from its model; attach() again")

    def __deepcopy__(self, memo: dict[int, Any]) -> Meteora:
        raise MeteoraError("a Meteora can't be copied: attach() to the copy of the model instead")
