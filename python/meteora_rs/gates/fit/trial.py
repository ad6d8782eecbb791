"""Gates on trial: in force while a fit needs them, gone if it does not finish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meteora_rs.routes import BASE

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora


@contextmanager
def restored_on_failure(meteora: Meteora, names: Sequence[str]) -> Iterator[None]:
    """Puts the gates of `names` back, whatever their kind, if the block raises anything, Ctrl-C included.

    An adapter that was unloaded or reloaded meanwhile keeps what it has now. The exception goes on.
    """
    before = {name: (record.slot, record.id) for record in meteora.adapters() if (name := record.name) in names}
    kinds = {record.name: (record.gate, record.routable) for record in meteora.adapters()}
    base_slot, base_routable = meteora._registry.slots - 1, meteora._registry.base_routable
    slots = [slot for slot, _ in before.values()] + [base_slot]
    saved = [
        (site.gate[slots].clone(), site.gate_bias[slots].clone(), site.table[slots, 2].clone())
        for site in meteora.sites
    ]
    try:
        yield
    except BaseException:
        live = {record.name: (record.slot, record.id) for record in meteora.adapters()}
        kept = [i for i, name in enumerate(before) if live.get(name) == before[name]]
        with meteora._writer, meteora._context.lock:
            meteora._context.release_default()
            places = [*kept, len(before)]
            for site, (gate, bias, kind) in zip(meteora.sites, saved, strict=True):
                for place in places:
                    site.kernel.write_gate(
                        slots[place], gate[place].data_ptr(), float(bias[place]), bool(kind[place] >> 8)
                    )
            for i, name in enumerate(before):
                if i in kept:
                    meteora._registry.set_gate(name, *kinds[name])
            if BASE in names:
                meteora._registry.set_base_routable(base_routable)
            meteora._share_gates([slots[place] for place in places])
            meteora._context.refresh()
        raise
