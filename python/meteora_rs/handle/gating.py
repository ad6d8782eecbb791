"""Gate rows of live adapters: looked at, replaced, fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from meteora_rs import gates
from meteora_rs.errors import AdapterFormatError, AdapterInUseError
from meteora_rs.gates.tensors import Row
from meteora_rs.handle.attached import Attached
from meteora_rs.routes import BASE

if TYPE_CHECKING:
    from meteora_rs.gates.fit import FitReport

GIVEN = ("tensors", "fitted", "examples")
"""Kinds of gate that a reload leaves as they are and a bundle holds; the others follow from the weights."""


class Gating(Attached):
    """Changes of gates."""

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

    def _gate_rows(self, slot: int) -> dict[str, tuple[Tensor, float]]:
        return {site.path: (site.gate[slot].detach().clone(), float(site.gate_bias[slot])) for site in self.sites}

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
        return fit_gates(self._whole, texts, **options)
