"""Arrow's gates for a while, to compare others with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meteora_rs.files.peft_folder import live_modules, parse_own
from meteora_rs.gate_kinds import ArrowGate, TensorGate
from meteora_rs.routes import BASE
from meteora_rs.serving.gate_change import Changes

if TYPE_CHECKING:
    from meteora_rs.attached.record import AdapterRecord
    from meteora_rs.meteora import Meteora


@contextmanager
def arrow_gates(meteora: Meteora) -> Iterator[None]:
    """Inside the block every adapter that `Auto` may choose has Arrow's rows, and the base is no class.

    Raises:
        AdapterInUseError: as `Meteora.set_gates`, at the entrance and at the exit.
    """
    rows = meteora.gate_rows()
    changed = [record for record in meteora.adapters() if record.routable and record.name in rows]
    kinds = {record.name: record.gate for record in changed} | {BASE: "fitted"}
    own: Changes = {
        name: (TensorGate(name, each, meteora.sites, kinds[name]), True) for name, each in rows.items() if name in kinds
    }
    arrows: Changes = {record.name: (_arrow(meteora, record), True) for record in changed}
    meteora._change_gates({**arrows, BASE: None} if BASE in own else arrows)
    try:
        yield
    finally:
        meteora._change_gates(own)


def _arrow(meteora: Meteora, record: AdapterRecord) -> ArrowGate:
    modules = live_modules(meteora.sites, record.slot)
    return ArrowGate(parse_own(meteora.sites, modules, record.name), meteora.sites)
