"""The current plan: a context variable, so that threads and asyncio tasks do not see each other's routes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.errors import MeteoraError, RouteError
from meteora_rs.routes import Auto, Route, to_native

if TYPE_CHECKING:
    from meteora_rs.trace import Trace


CPU = -1
"""The place of the CPU; a CUDA device's is its index, as `Tensor.get_device()` says."""


class PlacedRoutes:
    """A plan's routes where a kernel reads them: `row_route [n] int32`, `records [R, width] int32`."""

    __slots__ = ("addresses", "records", "row_route")

    def __init__(self, row_route: Tensor, records: Tensor) -> None:
        self.row_route, self.records = row_route, records
        self.addresses = (row_route.data_ptr(), len(row_route), records.data_ptr(), len(records))
        for tensor in (row_route, records):
            torch._dynamo.mark_dynamic(tensor, 0)


class Plan:
    """Routes resolved against one snapshot, in the form that kernels read.

    Holds the snapshot until it is entered; then its `Holder` does, and graphs that await their backward pass: a
    traceback whose frames know the plan keeps no adapter from being replaced.

    `row_route [n] int32` and `routes [R, width] int32` are the tensors of `meteora_rs::gated_lora`, and `on` has their
    copies on devices; `native` is the same for the eager CPU path; `is_base` says that no row uses an adapter.
    """

    __slots__ = ("_placed", "is_base", "listed", "native", "temperature", "top_k", "trace")

    def __init__(self, native: _native.RoutePlan, trace: Trace | None) -> None:
        self.native = native
        self.is_base = native.is_base
        self.top_k = native.top_k
        self.temperature = native.temperature
        self.trace = trace
        row_route = torch.frombuffer(bytearray(native.row_route()), dtype=torch.int32)
        self.listed = len(row_route)
        # One route is given twice: a length of 1 would be a constant in compiled graphs, and a second route a
        # recompilation. The rule "token t of T takes row_route[t * n // T]" reads both forms alike.
        row_route = row_route.repeat(2) if len(row_route) == 1 else row_route
        records = torch.frombuffer(bytearray(native.records()), dtype=torch.int32).view(-1, native.width)
        records = records if len(records) > 1 else records.repeat(2, 1)
        self._placed = {CPU: PlacedRoutes(row_route, records)}

    @property
    def row_route(self) -> Tensor:
        """`[n]` int32, on the CPU."""
        return self._placed[CPU].row_route

    @property
    def routes(self) -> Tensor:
        """`[R, width]` int32, on the CPU."""
        return self._placed[CPU].records

    def on(self, place: int | None) -> PlacedRoutes:
        """The routes at a `Site.place`: copied there once, before the first kernel that reads them is launched.

        Raises:
            MeteoraError: a place that no kernel serves.
        """
        if place is None:
            raise MeteoraError("adapters run on the CPU and on CUDA devices; the model's buffers are on neither")
        placed = self._placed.get(place)
        if placed is None:
            device = torch.device("cuda", place)
            own = self._placed[CPU]
            placed = self._placed[place] = PlacedRoutes(own.row_route.to(device), own.records.to(device))
        return placed

    def check_rows(self, rows: int | None) -> None:
        """Hold a list of routes against the batch that a call begins with.

        Raises:
            RouteError: there is neither one route nor one for each row.
        """
        if rows is not None and self.listed not in (1, rows):
            raise RouteError(
                f"route: {self.listed} routes for a batch of {rows} rows; give one route, or one for each row (rows "
                "that generate() repeats follow their own)"
            )


class Holder:
    """A mutable cell with the plan in force; compiled graphs read through it, so no branch and no guard on it."""

    __slots__ = ("hold", "inside", "plan")

    def __init__(self, plan: Plan, inside: bool = False, hold: _native.Hold | None = None) -> None:
        self.plan = plan
        self.hold = hold  # of the plan's snapshot; the default plan, which no block ends, has its own
        self.inside = inside  # inside generate() or forward(): rows have been checked, and may have been repeated


class RoutingContext:
    """Makes plans for one attached model and knows which one is in force here."""

    def __init__(self, registry: _native.Registry, top_k: int, temperature: float) -> None:
        self._registry = registry
        self.lock = threading.RLock()
        """Held while a plan takes its snapshot, and while gate rows change in place: neither sees half of the other."""
        self._options = (top_k, temperature)
        self.default = Holder(self.plan([Auto()], None))
        self._var: ContextVar[Holder] = ContextVar("meteora_rs_plan", default=self.default)

    def current(self) -> Plan:
        """The plan in force: of the innermost `routing()` of this thread or task, else the default `Auto()`."""
        return self._var.get().plan

    def is_inside(self) -> bool:
        """Whether this is inside a call of the attached model."""
        return self._var.get().inside

    def is_default(self) -> bool:
        """Whether no `routing()` is open here."""
        return self._var.get() is self.default

    def plan(
        self,
        routes: Sequence[Route],
        trace: Trace | None,
        top_k: int | None = None,
        temperature: float | None = None,
    ) -> Plan:
        """A plan for `routes` on the snapshot published now; what is None is as `attach` was told.

        Raises:
            AdapterNotFoundError, RouteError: see `Meteora.routing`.
        """
        own_top_k, own_temperature = self._options
        top_k = own_top_k if top_k is None else top_k
        temperature = own_temperature if temperature is None else temperature
        with self.lock:
            native = self._registry.plan([to_native(route) for route in routes], top_k, temperature)
        return Plan(native, trace)

    def refresh(self) -> None:
        """Resolve the default `Auto()` against the snapshot published now."""
        self.default.plan = self.plan([Auto()], None)

    def release_default(self) -> None:
        """Let the default plan hold no snapshot until `refresh`, so that an in-place reload finds no reader."""
        self.default.plan.native.release()

    @contextmanager
    def enter(self, plan: Plan, inside: bool = False) -> Iterator[Plan]:
        """Put `plan` in force inside the block; `inside` a call of the model, rows are not checked again.

        Raises:
            MeteoraError: nobody holds the plan's snapshot any more.
        """
        token = self._var.set(Holder(plan, inside, plan.native.hold()))
        plan.native.release()
        try:
            yield plan
        finally:
            self._var.reset(token)
            del token  # it knows the holder before: a traceback with this frame would keep that one's snapshot
