"""The current plan: a context variable, so that threads and asyncio tasks do not see each other's routes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.errors import AdapterNotFoundError, RouteError
from meteora_rs.ops.layout import route_width
from meteora_rs.routes import BASE, Auto, NativeRoute, Route, to_native
from meteora_rs.routing.block import Block
from meteora_rs.routing.graph_routes import GraphRoutes
from meteora_rs.routing.holder import Holder
from meteora_rs.routing.leases import Leases
from meteora_rs.routing.plan import LayerGate, Plan
from meteora_rs.routing.trace import Trace
from meteora_rs.sites.site import Site

OUTSIDE = (
    "no routing() is open here, and without one this model answers nothing (MeteoraConfig(require_routing=True)): open "
    "'with meteora.routing(…)' around the call, in the thread or task that makes it"
)
"""What is said where a block is required."""


class Admission(Protocol):
    """What brings in the adapters of a request's routes; inside its block nobody takes them away."""

    unknown: list[str]
    """Names that nobody knows, or that the request may not: the plan is refused."""

    @property
    def in_turn(self) -> bool:
        """Whether something was missing, so that it has stood in line."""
        ...

    def rests(self, name: str) -> bool:
        """Whether a name of the routes is known to somebody."""
        ...

    def __enter__(self) -> object:
        """Wait until all is there."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Let the next have its turn."""
        ...


Admit: TypeAlias = Callable[[Sequence[NativeRoute], _native.RoutePlan | None], Admission]
"""(routes, the plan that bounds them) to their admission."""


class RoutingContext:
    """Makes plans for one attached model and knows which one is in force here."""

    def __init__(self, registry: _native.Registry, top_k: int, temperature: float, requires_routing: bool) -> None:
        self._registry = registry
        self.requires_routing = requires_routing
        """Whether outside of all blocks no adapter is anybody's."""
        self.admit: Admit | None = None
        """How adapters come in that a route names and that are not live; None: they don't."""
        self.leases = Leases()
        self.graph_routes = GraphRoutes(route_width(registry.slots), self._add_place)
        self._places: tuple[int, ...] = ()
        self.lock = threading.RLock()
        """Held while a request's plan takes its snapshot, and while gate rows change in place, which they do only if no
        request runs: neither sees half of the other. No load ever takes it."""
        self._options = (top_k, temperature)
        self.flow: LayerGate | None = None
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
        if self.admit is not None and any(names for _, names, _ in parts):
            native = self._admitted(self.admit, parts, top_k, temperature, within, confine)
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
        admit: Admit,
        parts: list[NativeRoute],
        top_k: int,
        temperature: float,
        within: _native.RoutePlan | None,
        confine: bool,
    ) -> _native.RoutePlan:
        """A plan for routes whose adapters may have to be brought in first."""
        while True:
            admission = admit(parts, within)
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

    def follow(self, flow: LayerGate | None) -> None:
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
