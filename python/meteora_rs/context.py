"""The current plan: a context variable, so that threads and asyncio tasks do not see each other's routes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.block import Block, Holder
from meteora_rs.errors import AdapterNotFoundError, MeteoraError, RouteError
from meteora_rs.graph_routes import GraphRoutes
from meteora_rs.leases import Lease, Leases
from meteora_rs.ops.layout import route_width
from meteora_rs.routes import BASE, Auto, NativeRoute, Route, to_native

if TYPE_CHECKING:
    from meteora_rs.gates.flow import FlowGate
    from meteora_rs.site import Site
    from meteora_rs.tiers import Tiers
    from meteora_rs.trace import Trace

TakesOver: TypeAlias = "Callable[[Site, Tensor, Tensor], Tensor]"
"""(site, base output, input) to the output with the adapters' part: what stands in for a site's own rows."""


CPU = -1
"""The place of the CPU; a CUDA device's is its index, as `Tensor.get_device()` says."""

OUTSIDE = (
    "no routing() is open here, and without one this model answers nothing (MeteoraConfig(require_routing=True)): open "
    "'with meteora.routing(…)' around the call, in the thread or task that makes it"
)
"""What is said where a block is required."""


def current_stream(place: int) -> int:
    """The number of torch's current stream at a device's place."""
    return int(torch._C._cuda_getCurrentRawStream(place))


def copied(tensor: Tensor, place: int) -> Tensor:
    """A copy at a device's place, made by its current stream.

    From memory that is not page-locked: the host does not wait for so few bytes (up to 64 KB), and nothing is asked of
    the driver that would break the capture of another thread.
    """
    return tensor.to(torch.device("cuda", place), non_blocking=True)


class PlacedRoutes:
    """A plan's routes where a kernel reads them: `row_route [n] int32`, `records [R, width] int32`."""

    __slots__ = ("_addresses", "records", "row_route")

    def __init__(self, row_route: Tensor, records: Tensor) -> None:
        self.row_route, self.records = row_route, records
        self._addresses: tuple[int, int, int, int] | None = None
        for tensor in (row_route, records):
            torch._dynamo.mark_dynamic(tensor, 0)

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """Of both, each with its length: asked for late, as tensors made inside a torch.func transform have none."""
        if self._addresses is None:
            self._addresses = (
                self.row_route.data_ptr(), len(self.row_route), self.records.data_ptr(), len(self.records)
            )  # fmt: skip
        return self._addresses


class Plan:
    """Routes resolved against one snapshot, in the form that kernels read.

    Holds its adapters until it is entered; then its `Holder`'s lease does, and graphs that await their backward pass:
    a traceback whose frames know the plan keeps no adapter from being replaced.

    `row_route [n] int32` and `routes [R, width] int32` are the tensors of `meteora_rs::gated_lora`, and `on` has their
    copies on devices; `native` is the same for the eager CPU path; `is_base` says that no row uses an adapter.
    `flow` is the gate that weights whole layers, if there is one (`gates.flow`). `takes_over` computes every site's
    part instead of the site: gates in training, or the weights of a layer.
    """

    __slots__ = (
        "_backward", "_by_stream", "_leases", "_placed", "flow", "is_base", "listed", "native", "takes_over",
        "temperature", "top_k", "trace",
    )  # fmt: skip

    def __init__(
        self, native: _native.RoutePlan, trace: Trace | None, leases: Leases, flow: FlowGate | None = None
    ) -> None:
        self.flow = flow
        self.takes_over: TakesOver | None = None
        self.native = native
        self._leases = leases
        self._backward: weakref.ref[Lease] | None = None
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
        self._by_stream: dict[tuple[int, int], PlacedRoutes] = {}

    @property
    def row_route(self) -> Tensor:
        """`[n]` int32, on the CPU."""
        return self._placed[CPU].row_route

    @property
    def routes(self) -> Tensor:
        """`[R, width]` int32, on the CPU."""
        return self._placed[CPU].records

    def on(self, place: int | None) -> PlacedRoutes:
        """The routes at a `Site.place`, for work on its current stream: copied once by each stream that reads them.

        Neither would another stream wait for the copy, nor torch's allocator for what it reads. Compiled code and
        captures, which know no streams, find what was copied when the plan was made.

        Raises:
            MeteoraError: a place that no kernel serves, or that the model has moved to since, in compiled code.
        """
        if place is None:
            raise MeteoraError("adapters run on the CPU and on CUDA devices; the model's buffers are on neither")
        if place == CPU or torch.compiler.is_compiling():
            if place not in self._placed:
                raise MeteoraError(
                    "the model has been moved since this routing() began: open another to run it compiled"
                )
            return self._placed[place]
        key = place, current_stream(place)
        placed = self._by_stream.get(key)
        if placed is None:
            if place in self._placed and torch.cuda.is_current_stream_capturing():
                return self._placed[place]
            placed = self._by_stream[key] = self._copied(place)
        return placed

    def place(self, places: Iterable[int]) -> None:
        """Copy the routes to these places now."""
        for place in places:
            self._placed[place] = self._by_stream[place, current_stream(place)] = self._copied(place)

    def _copied(self, place: int) -> PlacedRoutes:
        own = self._placed[CPU]
        return PlacedRoutes(copied(own.row_route, place), copied(own.records, place))

    def rerouted(self, records: Tensor) -> Plan:
        """The same plan with other records for the op; the eager path does not see them."""
        plan = copy(self)
        plan._placed, plan._by_stream = {CPU: PlacedRoutes(self.row_route, records)}, {}
        return plan

    def traced(self, trace: Trace | None) -> Plan:
        """The same plan with another trace."""
        plan = copy(self)
        plan.trace = trace
        return plan

    def taken_over(self, takes_over: TakesOver) -> Plan:
        """The same plan, with what computes every site's part."""
        plan = copy(self)
        plan.takes_over = takes_over
        return plan

    def lease(self, what: str) -> Lease:
        """Hold the plan's adapters.

        Raises:
            MeteoraError: nobody holds them any more.
        """
        return Lease(self._leases, self.native, what)

    def backward_lease(self) -> Lease:
        """Hold the plan's adapters for a backward pass; all graphs of the plan share one lease."""
        lease = self._backward() if self._backward is not None else None
        if lease is None:
            lease = self.lease("backward")
            self._backward = weakref.ref(lease)
        return lease

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


class RoutingContext:
    """Makes plans for one attached model and knows which one is in force here."""

    def __init__(self, registry: _native.Registry, top_k: int, temperature: float, requires_routing: bool) -> None:
        self._registry = registry
        self.requires_routing = requires_routing
        """Whether outside of all blocks no adapter is anybody's."""
        self.tiers: Tiers | None = None
        """Where adapters come from that a route names and that are not live."""
        self.leases = Leases()
        self.graph_routes = GraphRoutes(route_width(registry.slots), self._add_place)
        self._places: tuple[int, ...] = ()
        self.lock = threading.RLock()
        """Held while a request's plan takes its snapshot, and while gate rows change in place, which they do only if no
        request runs: neither sees half of the other. No load ever takes it."""
        self._options = (top_k, temperature)
        self.flow: FlowGate | None = None
        """Given to each new plan."""
        self.default = Holder(self._default_plan())
        self.var: ContextVar[Holder] = ContextVar("meteora_rs_plan", default=self.default)

    def current(self) -> Plan:
        """The plan in force: of the innermost `routing()` of this thread or task, else the default."""
        return self.var.get().plan

    def is_inside(self) -> bool:
        """Whether this is inside a call of the attached model."""
        return self.var.get().inside

    def check_routed(self) -> None:
        """Stop here if a block is required and none is open; in compiled graphs a guard, not a branch.

        Raises:
            RouteError: so it is.
        """
        if self.requires_routing and self.var.get().lease is None:
            raise RouteError(OUTSIDE)

    def is_default(self) -> bool:
        """Whether no `routing()` is open here."""
        return self.var.get() is self.default

    def around(self) -> _native.RoutePlan | None:
        """What bounds a plan that is made here: that of the innermost `routing()`.

        Not the default plan: it holds what is live now, which others may have to wait for while this one waits.
        """
        return None if self.is_default() else self.current().native

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # where a graph breaks, what it calls is compiled too
    def plan(
        self,
        routes: Sequence[Route],
        trace: Trace | None,
        top_k: int | None = None,
        temperature: float | None = None,
        confine: bool = False,
    ) -> Plan:
        """A plan for `routes` on the snapshot published now; what is None is as `attach` was told.

        An error tells of no adapter that the block around this can't reach: they may be others'. If that is confined,
        so is the plan; with `confine`, plans inside its block reach what it reaches, and no more.

        Raises:
            AdapterNotFoundError, RouteError, CapacityError: see `Meteora.routing`.
        """
        own_top_k, own_temperature = self._options
        top_k = own_top_k if top_k is None else top_k
        temperature = own_temperature if temperature is None else temperature
        parts = [to_native(route) for route in routes]
        within = self.around()
        if self.tiers is not None and any(names for _, names, _ in parts):
            native = self._admitted(self.tiers, parts, top_k, temperature, within, confine)
        else:
            with self.lock:
                native = self._registry.plan(parts, top_k, temperature, within, confine)
        return self._placed(native, trace)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _default_plan(self) -> Plan:
        """The plan of `Auto()` on the snapshot published now; of the base, where blocks are required.

        It needs no lock: who calls this has the handle's writer lock, which whoever changes gate rows in place has too.
        """
        route = to_native(BASE if self.requires_routing else Auto())
        plan = self._placed(self._registry.plan([route], *self._options, None, False), None)
        return plan.taken_over(_refuse) if self.requires_routing else plan

    def _placed(self, native: _native.RoutePlan, trace: Trace | None) -> Plan:
        plan = Plan(native, trace, self.leases, self.flow)
        plan.place(self._places)
        return plan

    def _add_place(self, place: int) -> None:
        """Copy the routes of every plan that is made from now on to this device, and those of the default plan."""
        self._places = (*self._places, place)
        self.default.plan.place([place])

    def _admitted(
        self,
        tiers: Tiers,
        parts: list[NativeRoute],
        top_k: int,
        temperature: float,
        within: _native.RoutePlan | None,
        confine: bool,
    ) -> _native.RoutePlan:
        """A plan for routes whose adapters may have to be brought in first."""
        while True:
            admission = tiers.admission(parts, within)
            if admission.unknown:  # what nobody knows is said first, before what only rests
                parts = [(kind, sorted(names, key=admission.rests), weights) for kind, names, weights in parts]
                parts.sort(key=lambda part: all(map(admission.rests, part[1])))
            try:
                with admission, self.lock:
                    return self._registry.plan(parts, top_k, temperature, within, confine)
            except AdapterNotFoundError:
                # All were there, and one has gone for another's request since: this one stands in line for it.
                if admission.unknown or admission.in_turn:
                    raise

    def follow(self, flow: FlowGate | None) -> None:
        """Give `flow` to each plan from now on, the default one included; for who has the handle's writer lock."""
        self.flow = flow
        self.refresh()

    def refresh(self) -> None:
        """Make the default plan on the snapshot published now; for who has the handle's writer lock."""
        try:
            self.default.plan = self._default_plan()
        except BaseException:  # a signal: without this it would go on with what is gone, and hold its memory
            self.default.plan = self._default_plan()
            raise

    @contextmanager
    def without_default(self) -> Iterator[None]:
        """Inside, the default plan holds no snapshot, so that what is changed in its place finds no reader."""
        try:  # a signal may come as soon as it is released
            self.default.plan.native.release()
            yield
        finally:
            self.refresh()

    def enter(self, plan: Plan, what: str, inside: bool = False) -> Block:
        """A block with `plan` in force; `inside` a call of the model, rows are not checked again."""
        return Block(self, plan, what, inside)


def _refuse(site: Site, base: Tensor, x: Tensor) -> Tensor:
    """In the place of a site's part where a block is required: for a part of the model that is called by itself."""
    raise RouteError(OUTSIDE)
