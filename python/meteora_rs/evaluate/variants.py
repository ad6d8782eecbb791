"""The ways of answering that an evaluation compares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from meteora_rs.routes import BASE, Auto, Route

from .tasks import Item, Task


class Own(Enum):
    """The variant that answers each task with the adapter of its name, and tasks without one not at all."""

    OWN = "own"


OWN = Own.OWN


@dataclass(frozen=True)
class Gates:
    """The gates choose, otherwise than the model's config says.

    Attributes:
        top_k: in place of the config's.
        arrow: by Arrow's rows of the adapters that `Auto` may choose, in place of their own; the base is no class then.
    """

    route: Auto = field(default_factory=Auto)
    top_k: int | None = None
    arrow: bool = False


@dataclass(frozen=True)
class Chosen:
    """Something else has chosen a route for each prompt: `{prompt: route}`."""

    routes: Mapping[str, Route]


Variant: TypeAlias = Route | Own | Gates | Chosen

DEFAULT: dict[str, Variant] = {"base": BASE, "own": OWN, "auto": Auto()}


Router: TypeAlias = Callable[[Item], Route]


def router(variant: Variant, task: Task, adapters: Collection[str]) -> Router | None:
    """What finds the route that answers an item, or `None` where the task has no adapter of its own."""
    if isinstance(variant, Chosen):
        routes = variant.routes
        return lambda item: routes[item.prompt]
    if isinstance(variant, Own) and task.name not in adapters:
        return None
    route = task.name if isinstance(variant, Own) else variant.route if isinstance(variant, Gates) else variant
    return lambda item: route
