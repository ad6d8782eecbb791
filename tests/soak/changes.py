"""What loaders do: any change of any adapter at any time, good or bad."""

from __future__ import annotations

import asyncio
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
from soak.requests import ALIAS, GROUP

CHANGES = {
    "load": 5,
    "reload": 6,
    "reload, gate kept": 2,
    "unload": 4,
    "pin": 1,
    "unpin": 3,
    "set_gates": 1,
    "set_alias": 1,
    "remove_alias": 1,
    "set_group": 1,
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
            meteora.unload_adapter(name, wait=random.choice((None, 0.01)))
        elif what in ("pin", "unpin"):
            meteora.pin_adapter(name, what == "pin")
        elif what == "set_gates":
            meteora.set_gates({name: gate_of(meteora, name, "fitted")}, kind="fitted")
        elif what == "set_alias":
            meteora.set_alias(ALIAS, name)
        elif what == "remove_alias":
            meteora.remove_alias(ALIAS)
        elif what == "set_group":
            meteora.set_group(GROUP, random.sample(NAMES, 2))
        else:
            _refused(meteora, what == "load broken", name, random.choice(library.broken))
    except REFUSALS as error:
        done[f"{what}: {type(error).__name__}"] += 1
    else:
        done[what] += 1


async def change_awaited(meteora: Meteora, library: Library, random: Random, done: Counter[str]) -> None:
    """One change from an event loop, often cancelled midway; counts what came of it."""
    name, folder = library.draw(random)
    what, act = random.choice(
        (
            ("aload", lambda: meteora.aload_adapter(folder, name, gate=gate_of(meteora, name, "tensors"))),
            ("areload", lambda: meteora.areload_adapter(name, folder, gate=gate_of(meteora, name, "tensors"))),
            ("aunload", lambda: meteora.aunload_adapter(name, wait=0.01)),
        )
    )
    task = asyncio.ensure_future(act())
    if random.random() < 0.5:
        await asyncio.sleep(random.choice((0.0, 0.0005, 0.001, 0.002)))
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        done[f"{what}: cancelled"] += 1
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
    if ALIAS in meteora.aliases():
        meteora.remove_alias(ALIAS)
    for name in NAMES:
        try:
            meteora.pin_adapter(name, False)
            meteora.unload_adapter(name)
        except AdapterNotFoundError:
            continue
