"""Gradient checkpointing: what the backward pass computes again follows the routes of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from meteora_rs.routing.context import RoutingContext

FUNCTION = "_gradient_checkpointing_func"
"""Where transformers' modules keep what `gradient_checkpointing_enable` gave them."""


class PlannedCheckpoint:
    """In the place of a module's checkpointing function: gives it a function that brings its plan along."""

    def __init__(self, inner: Callable[..., Any], context: RoutingContext) -> None:
        self.inner = inner
        self.context = context

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Checkpoint `function`, to be called now and again in the backward pass, there perhaps in another thread."""
        if torch.compiler.is_compiling() or self.context.is_default():
            return self.inner(function, *args, **kwargs)
        return self.inner(_Planned(function, self.context), *args, **kwargs)


class _Planned:
    """A function that holds the plan in force when it was made, and is called under it."""

    def __init__(self, function: Callable[..., Any], context: RoutingContext) -> None:
        self._function, self._context, self._plan = function, context, context.current()
        self._lease = self._plan.backward_lease()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        plan = self._plan
        if plan.trace is not None:
            self._plan = plan.traced(None)  # a trace has each pass once
        with self._context.enter(plan, "backward", inside=True):
            return self._function(*args, **kwargs)


def bring_plans(model: nn.Module, context: RoutingContext) -> None:
    """Make every checkpointed module of `model` compute again under the plan of its forward pass."""
    for module in model.modules():
        inner = module.__dict__.get(FUNCTION)
        if inner is not None and not (isinstance(inner, PlannedCheckpoint) and inner.context is context):
            setattr(module, FUNCTION, PlannedCheckpoint(inner, context))


def forget_plans(model: nn.Module, context: RoutingContext) -> None:
    """Undo `bring_plans`."""
    for module in model.modules():
        planned = module.__dict__.get(FUNCTION)
        if isinstance(planned, PlannedCheckpoint) and planned.context is context:
            setattr(module, FUNCTION, planned.inner)
