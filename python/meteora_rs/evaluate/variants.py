"""The ways of answering that an evaluation compares."""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import TypeAlias

from meteora_rs.routes import BASE, Auto, Route

from .tasks import Task


class Own(Enum):
    """The variant that answers each task with the adapter of its name, and tasks without one not at all."""

    OWN = "own"


OWN = Own.OWN

Variant: TypeAlias = Route | Own

DEFAULT: dict[str, Variant] = {"base": BASE, "own": OWN, "auto": Auto()}


def route_for(variant: Variant, task: Task, adapters: Collection[str]) -> Route | None:
    """The route that answers `task`, or `None` where it has no adapter of its own."""
    if not isinstance(variant, Own):
        return variant
    return task.name if task.name in adapters else None
