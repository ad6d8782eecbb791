"""Gates on trial: in force while a fit needs them, gone if it does not finish."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from meteora_rs.errors import AdapterInUseError
from meteora_rs.gate_kinds import Gate
from meteora_rs.gate_kinds.saved import SavedGate
from meteora_rs.routes import BASE
from meteora_rs.serving.gate_change import Changes
from meteora_rs.serving.gating import Gating

PATIENCE = 30.0
"""Seconds to wait for running requests before gates that were tried stay in force."""


@contextmanager
def restored_on_failure(meteora: Gating, names: Sequence[str]) -> Iterator[None]:
    """Puts the gates of `names` back, whatever their kind, if the block raises anything, Ctrl-C included.

    An adapter that was unloaded or reloaded meanwhile keeps what it has now. The exception goes on.
    """
    records = [record for record in meteora.adapters() if record.name in names]
    saved: dict[str, tuple[Gate, bool] | None] = {
        record.name: (SavedGate(record.slot, record.gate, meteora.sites), record.routable) for record in records
    }
    if BASE in names:
        slot = meteora._registry.base_slot
        saved[BASE] = None if slot is None else (SavedGate(slot, "fitted", meteora.sites), True)
    weights = {record.name: record.weights for record in records}
    try:
        yield
    except BaseException:
        now = {record.name: record.weights for record in meteora.adapters()}
        _restore(
            meteora, {name: gate for name, gate in saved.items() if name == BASE or now.get(name) == weights[name]}
        )
        raise


def _restore(meteora: Gating, gates: Changes) -> None:
    """Put gates back, as soon as requests that came meanwhile leave room for it."""
    end = time.monotonic() + PATIENCE
    while True:
        freed = meteora._registry.freed()
        try:
            return meteora._change_gates(gates)
        except AdapterInUseError:
            if time.monotonic() > end:
                raise
            meteora._registry.wait_freed(freed, 0.05)
