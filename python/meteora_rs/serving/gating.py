"""Gate rows of live adapters: looked at, replaced."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from meteora_rs import gate_kinds
from meteora_rs.attached.record import GIVEN
from meteora_rs.errors import AdapterFormatError, AdapterInUseError
from meteora_rs.gate_kinds import Gate
from meteora_rs.gate_kinds.tensors import Row
from meteora_rs.routes import BASE
from meteora_rs.serving.gate_change import Changes, GateChange
from meteora_rs.serving.requests import Requests


class Gating(Requests):
    """Changes of gates."""

    def set_gates(self, rows: Mapping[str, Mapping[str, Row] | None], *, kind: str = "fitted") -> None:
        """Replace the gate rows of adapters, all or none, in one step; running requests keep the old ones.

        While requests run, new rows take a free slot each until the old ones' last reader has ended. With none, they
        are written in place; a request that begins in those milliseconds waits for them. An adapter that is registered
        and not on the device gets them where it is, in the host's memory.

        Args:
            rows: for each adapter, `{site path: (row [in] float32, bias)}`, as in `load_adapter(gate=…)`; for
                `"__base__"` too, which makes the base a class of its own, or None: it is no class any more, and every
                token gets adapters again.
            kind: what `adapters()` shall say of them.

        Raises:
            AdapterNotFoundError, AdapterFormatError: a name or a row is wrong.
            AdapterInUseError: requests run, and there are not enough free slots; or an adapter is being changed.
            CapacityError, OSError: an adapter had to be read again for it (see `register_adapter`).
        """
        if kind not in GIVEN:
            raise ValueError(f"kind must be one of {', '.join(GIVEN)}, not {kind!r}")
        self._require_attached()
        for name in rows:
            if name != BASE and not (self.tiers is not None and self.tiers.knows(name)):
                self._registry.record(name)
        changes: dict[str, tuple[Gate, bool] | None] = {}
        for name, each in rows.items():
            if each is None and name != BASE:
                raise AdapterFormatError(f"adapter {name!r}: gate rows are needed, not None; only the base's go")
            changes[name] = None if each is None else (gate_kinds.TensorGate(name, each, self.sites, kind), True)
        self._change_gates(changes)

    def gate_rows(self) -> dict[str, dict[str, tuple[Tensor, float]]]:
        """The gate rows on the device, in the form of `set_gates`; adapters with Arrow's or no gate are left out.

        Raises:
            AdapterInUseError: an adapter is being reloaded in its own place; try again when that has ended.
        """
        with self._writer:
            hold, records = self._hold()
            slots = self._given_slots(records)
        rows = {name: self._gate_rows(slot) for name, slot in slots.items()}
        del hold
        return rows

    def _change_gates(self, changes: Changes) -> None:
        """Replace gates of any kind, all or none, in one step.

        Raises:
            AdapterNotFoundError, AdapterInUseError, CapacityError, OSError: as `set_gates`.
        """
        while not GateChange(self, changes).attempt():
            pass

    def _require_quiet(self, why: str) -> None:
        """Find out whether any request runs.

        Raises:
            AdapterInUseError: one does.
        """
        with self._writer, self._context.lock, self._context.without_default():
            if self._registry.readers():
                raise AdapterInUseError(
                    f"{why}: close every routing() first (stats().held), or fit on a copy of the model and bring its "
                    "gate_rows() here with set_gates(), which disturbs no request"
                )
