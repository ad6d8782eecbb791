"""Where captured CUDA graphs read their routes: at an address that stays, whichever `routing()` is open."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from meteora_rs.errors import MeteoraError
from meteora_rs.ops.layout import float_bits
from meteora_rs.routing.holder import Holder
from meteora_rs.routing.plan import Plan

OPTIONS = 4
"""Ints before `row_route`: rows, records, top_k, the bits of the temperature (`MeteoraCall.options` in cuda/abi.h)."""
ROWS = 1024
RECORDS_BYTES = 1 << 20


class GraphRoutes:
    """On each device of a model, the routes of one `routing()` block: `[options, row_route, records]` int32.

    A kernel in a graph reads them each time that it is replayed. They are those of the block that is open; none is: no
    adapter, whose rows might be another's by then. They are written by the streams that are current at the block's
    entrance and exit, so that what the block replays there comes between. One request at a time has them: once a graph
    has been captured, no second block can be open beside the first, but within it.
    """

    def __init__(self, width: int, new_place: Callable[[int], None]) -> None:
        """new_place: a method that is called with each CUDA device that the model comes to."""
        self._width = width
        self._new_place = weakref.WeakMethod(new_place)
        self._records = max(16, min(ROWS, RECORDS_BYTES // (4 * width)))
        self._buffers: dict[torch.device, Tensor] = {}
        self._owner: weakref.ref[Holder] | None = None
        self._captured = False
        self._lock = threading.RLock()  # entered again where a forgotten block is closed meanwhile

    def on(self, device: torch.device) -> tuple[int, int, int, int]:
        """Where they are on `device`: the address of row_route, its rows, that of the records, their number."""
        buffer = self._buffers.get(device)
        if buffer is None:
            size = OPTIONS + ROWS + self._records * self._width
            with self._lock, torch.inference_mode(False):  # else they could only be written in that mode
                buffer = self._buffers[device] = torch.zeros(size, dtype=torch.int32, device=device)
                owner = self._open_owner()
                self._write(None if owner is None else owner.plan)
            new_place = self._new_place()
            if device.type == "cuda" and new_place is not None:
                new_place(device.index)
        row_route = buffer.data_ptr() + buffer.itemsize * OPTIONS
        return row_route, ROWS, row_route + buffer.itemsize * ROWS, self._records

    def enter(self, holder: Holder, before: Holder) -> None:
        """Write the routes of a block that begins inside `before`.

        Raises:
            MeteoraError: a captured graph reads another request's, or there is no room for so many.
        """
        if not self._buffers:
            return
        if any(device.type == "cuda" for device in self._buffers) and torch.cuda.is_current_stream_capturing():
            raise MeteoraError("routing: open it around the capture of a graph, and around each replay, not inside")
        with self._lock:
            problem = self._problem(holder.plan, before)
            if problem is None:
                self._owner = weakref.ref(holder)
                self._write(holder.plan)
            elif self._captured:
                raise MeteoraError(f"routing: {problem}")

    def leave(self, holder: Holder, after: Holder) -> None:
        """Write the routes of the block around the one that ends, or of none."""
        if not self._buffers:
            return
        with self._lock:
            if self._owner is None or self._owner() is not holder:
                return
            outer = after.lease is not None and not after.ended and self._fits(after.plan)
            self._owner = weakref.ref(after) if outer else None
            self._write(after.plan if outer else None)

    def capture(self, plan: Plan) -> None:
        """Note that a graph is being captured under `plan`.

        Raises:
            MeteoraError: the graph would not read this plan's routes, but those of another, or none.
        """
        owner = self._open_owner()
        if owner is None or owner.plan.native is not plan.native:
            raise MeteoraError(
                "to capture a graph of an attached model, open routing() around the capture, and no other beside it"
            )
        self._captured = True

    def _problem(self, plan: Plan, before: Holder) -> str | None:
        """Why graphs can't read these routes."""
        owner = self._open_owner()
        if owner is not None and owner not in before.open():
            return (
                "a graph captured of this model reads the routes of one request at a time, and another's routing() "
                "is open"
            )
        if not self._fits(plan):
            return f"a captured graph reads at most {self._records} routes, for at most {ROWS} rows"
        return None

    def _fits(self, plan: Plan) -> bool:
        return len(plan.row_route) <= ROWS and len(plan.routes) <= self._records

    def _open_owner(self) -> Holder | None:
        owner = None if self._owner is None else self._owner()
        return None if owner is None or owner.ended else owner

    def _write(self, plan: Plan | None) -> None:
        if plan is None:
            written = torch.zeros(OPTIONS, dtype=torch.int32, device="cpu")  # no record: no adapter
        else:
            rows, records = plan.row_route, plan.routes
            written = torch.zeros(OPTIONS + ROWS + records.numel(), dtype=torch.int32, device="cpu")
            options = [len(rows), len(records), plan.top_k, float_bits(plan.temperature)]
            written[:OPTIONS] = torch.tensor(options, dtype=torch.int32, device="cpu")
            written[OPTIONS : OPTIONS + len(rows)] = rows
            written[OPTIONS + ROWS :] = records.flatten()
        for device, buffer in self._buffers.items():
            pinned = written if device.type == "cpu" else written.pin_memory()
            buffer[: len(written)].copy_(pinned, non_blocking=True)
