"""Routes resolved, in the form that kernels read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.errors import MeteoraError, RouteError
from meteora_rs.routing.leases import Lease, Leases
from meteora_rs.routing.trace import Trace
from meteora_rs.sites.site import CPU, Site

TakesOver: TypeAlias = Callable[[Site, Tensor, Tensor], Tensor]
"""(site, base output, input) to the output with the adapters' part: what stands in for a site's own rows."""


class LayerGate(Protocol):
    """A gate that weights whole layers (`gates.flow`): a plan carries it to those layers."""

    names: list[str]
    """Of its adapters."""

    def weight(self, layer: int, x: Tensor, places: Sequence[int]) -> Tensor:
        """The weights of the adapters at `places` for each token x `[T, in]` of a layer: `[T, len(places)]` float32."""
        ...


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
        self, native: _native.RoutePlan, trace: Trace | None, leases: Leases, flow: LayerGate | None = None
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


def held(out: Tensor, plan: Plan) -> Tensor:
    """`out`, whose backward pass, if it has one, reads the rows of the plan's snapshot: it holds them until then."""
    if out.grad_fn is not None:
        node: Any = out.grad_fn
        node.metadata["meteora_lease"] = plan.backward_lease()
    return out
