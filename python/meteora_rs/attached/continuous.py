"""transformers' continuous batching: one thread generates for all requests, and follows no `routing()`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from meteora_rs.errors import RouteError
from meteora_rs.routing.context import RoutingContext

ENTRANCE = "init_continuous_batching"
"""The method of a model that makes a manager; `generate_batch` and transformers' context manager call it."""


class Unrouted:
    """In the place of a manager's method: what is asked for inside a `routing()` block is refused."""

    def __init__(self, inner: Callable[..., Any], context: RoutingContext) -> None:
        functools.update_wrapper(self, inner)
        self.inner = inner
        self.context = context

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method.

        Raises:
            RouteError: a `routing()` or `trace()` block is open here.
        """
        refuse_blocks(self.context)
        return self.inner(*args, **kwargs)


def refuse_blocks(context: RoutingContext) -> None:
    """Refuse to go on inside a block, which the generating thread would not follow, and where blocks are required.

    Raises:
        RouteError: a `routing()` or `trace()` block is open here, or one has to be.
    """
    opened = any(holder.lease is not None and not holder.inside for holder in context.var.get().open())
    if opened or context.requires_routing:
        raise RouteError(
            "continuous batching (generate_batch) mixes all requests in a thread of its own, which follows Auto() and "
            "no routing() or trace(): inside a block, or with require_routing=True, call generate() with one route for "
            "each row instead"
        )


def unrouted(entrance: Callable[..., Any], context: RoutingContext, active: Callable[[], bool]) -> Callable[..., Any]:
    """`entrance`, refused inside a block, as is what starts the manager that it makes, or gives it a request."""

    @functools.wraps(entrance)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not active():
            return entrance(*args, **kwargs)
        refuse_blocks(context)
        manager = entrance(*args, **kwargs)
        for name in ("start", "add_request"):
            inner = getattr(manager, name)  # a manager that is kept for another session comes here again
            if not (isinstance(inner, Unrouted) and inner.context is context):
                setattr(manager, name, Unrouted(inner, context))
        return manager

    return wrapper
