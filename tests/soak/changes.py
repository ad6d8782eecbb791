"""What loaders do: any change of any adapter at any time, good or bad."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

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

WITH_TIERS = {**CHANGES, "register": 6, "prefetch": 3}
"""The same where adapters come and go by use."""

REFUSALS = (AdapterInUseError, AdapterNotFoundError, CapacityError)
"""What may be answered to a change that comes at the wrong moment."""


def change(meteora: Meteora, library: Library, random: Random, done: Counter[str]) -> None:
    """One change, drawn; counts what came of it.

    Raises:
        AssertionError: a broken adapter was taken.
    """
    drawn = CHANGES if meteora.tiers is None else WITH_TIERS
    what = random.choices(list(drawn), list(drawn.values()))[0]
    name, folder = library.draw(random)
    try:
        _actions(meteora, library, random, name, folder)[what]()
    except REFUSALS as error:
        done[f"{what}: {type(error).__name__}"] += 1
    else:
        done[what] += 1


def _actions(
    meteora: Meteora, library: Library, random: Random, name: str, folder: Path
) -> dict[str, Callable[[], object]]:
    def gate() -> Any:
        return gate_of(meteora, name, random.choice(("tensors", "tensors", "arrow", "none")))

    def set_gates() -> None:
        names = random.sample(NAMES, random.choice((1, 2)))
        meteora.set_gates({each: gate_of(meteora, each, "fitted") for each in names}, kind="fitted")

    return {
        "load": lambda: meteora.load_adapter(folder, name, gate=gate()),
        "reload": lambda: meteora.reload_adapter(name, folder, gate=gate()),
        "reload, gate kept": lambda: meteora.reload_adapter(name, folder),
        "unload": lambda: meteora.unload_adapter(name, wait=random.choice((None, 0.01))),
        "pin": lambda: meteora.pin_adapter(name),
        "unpin": lambda: meteora.pin_adapter(name, False),
        "set_gates": set_gates,
        "set_alias": lambda: meteora.set_alias(ALIAS, name),
        "remove_alias": lambda: meteora.remove_alias(ALIAS),
        "set_group": lambda: meteora.set_group(GROUP, random.sample(NAMES, 2)),
        "load broken": lambda: _refused(meteora, True, name, random.choice(library.broken)),
        "reload broken": lambda: _refused(meteora, False, name, random.choice(library.broken)),
        "register": lambda: meteora.register_adapter(folder, name, gate=gate()),
        "prefetch": lambda: meteora.prefetch(random.sample(NAMES, 2)),
    }


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
    for record in meteora.registered_adapters():
        if record.pinned:
            meteora.pin_adapter(record.name, False)
        meteora.unload_adapter(record.name)
