"""What loaders do: any change of any adapter at any time, good or bad."""

from __future__ import annotations

from collections import Counter
from random import Random

from meteora_rs import Meteora
from meteora_rs.errors import (
    AdapterFormatError,
    AdapterInUseError,
    AdapterNotFoundError,
    CapacityError,
)

from soak.library import NAMES, Library, gate_of

CHANGES = {
    "load": 5,
    "reload": 6,
    "reload, gate kept": 2,
    "unload": 4,
    "pin": 1,
    "unpin": 3,
    "set_gates": 1,
    "load broken": 1,
    "reload broken": 1,
}
"""How often each is drawn."""

REFUSALS = (AdapterInUseError, AdapterNotFoundError, CapacityError)
"""What may be answered to a change that comes at the wrong moment."""


def change(meteora: Meteora, library: Library, random: Random, done: Counter[str]) -> None:
    """One change, drawn; counts what came of it.

    Raises:
        AssertionError: a broken adapter was taken.
    """
    what = random.choices(list(CHANGES), CHANGES.values())[0]
    name, folder = library.draw(random)
    try:
        if what in ("load", "reload"):
            gate = gate_of(meteora, name, random.choice(("tensors", "tensors", "arrow", "none")))
            (meteora.load_adapter if what == "load" else lambda f, n, gate: meteora.reload_adapter(n, f, gate=gate))(
                folder, name, gate=gate
            )
        elif what == "reload, gate kept":
            meteora.reload_adapter(name, folder)
        elif what == "unload":
            meteora.unload_adapter(name)
        elif what in ("pin", "unpin"):
            meteora.pin_adapter(name, what == "pin")
        elif what == "set_gates":
            meteora.set_gates({name: gate_of(meteora, name, "fitted")}, kind="fitted")
        else:
            _refused(meteora, what == "load broken", name, random.choice(library.broken))
    except REFUSALS as error:
        done[f"{what}: {type(error).__name__}"] += 1
    else:
        done[what] += 1


def _refused(meteora: Meteora, load: bool, name: str, folder: object) -> None:
    try:
        if load:
            meteora.load_adapter(str(folder), name)
        else:
            meteora.reload_adapter(name, str(folder))
    except (AdapterFormatError, FileNotFoundError):
        return
    raise AssertionError(f"{folder} was taken for an adapter")


def clear(meteora: Meteora) -> None:
    """Unload all."""
    for name in NAMES:
        try:
            meteora.pin_adapter(name, False)
            meteora.unload_adapter(name)
        except AdapterNotFoundError:
            continue
