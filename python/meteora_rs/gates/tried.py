"""Gate rows in force for requests of one's own, in the place of the sites' rows: nobody else's tokens meet them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from meteora_rs import ops
from meteora_rs.attached.attached import Attached
from meteora_rs.ops.layout import ENTRY_WIDTH, KIND_ABS, auto_record
from meteora_rs.routes import BASE, Mix
from meteora_rs.routing.block import Block
from meteora_rs.routing.plan import Plan, held
from meteora_rs.sites.site import Site

Rows = tuple[Tensor, Tensor]
"""W `[C, in]` and b `[C]`, float32."""


class Classes:
    """Live adapters, and `"__base__"` if it is among them, to choose from by rows that are given with each call.

    Also those that no other request's gates could choose yet. A gate for whole layers has no part in it.
    """

    def __init__(
        self, meteora: Attached, names: Sequence[str], top_k: int, seats: Mapping[str, int] | None = None
    ) -> None:
        """Takes a snapshot of the adapters; `seats`: slots of those among `names` that are not live, and stay there as
        long as this is used.

        Raises:
            AdapterNotFoundError: a name that no live adapter has.
        """
        seats = seats or {}
        adapters = [name for name in names if name != BASE and name not in seats]
        plan = meteora._context.plan([Mix(dict.fromkeys(adapters, 1.0)) if adapters else BASE], None, top_k)
        n_slots = meteora._registry.slots  # the base gets one more than there are
        places = {name: slot for slot, name in plan.native.names()} | {BASE: n_slots, **seats}
        slots = [places[name] for name in names]
        record = auto_record(slots, n_slots + 1)
        self.plan: Plan = plan.rerouted(torch.tensor([record, record], dtype=torch.int32))
        self.plan.flow = None
        self._slots = torch.tensor(slots, dtype=torch.int64)
        self._n_slots = n_slots + 1

    def spread(self, rows: Rows) -> Rows:
        """The rows of all slots, `[slots, in]` and `[slots]`, zeros where there is no class."""
        weights, biases = rows
        slots = self._slots.to(weights.device)
        return (
            weights.new_zeros(self._n_slots, weights.shape[1]).index_copy(0, slots, weights),
            biases.new_zeros(self._n_slots).index_copy(0, slots, biases),
        )

    def add(self, site: Site, base: Tensor, x: Tensor, spread: Rows) -> Tensor:
        """`base` with the part of a site that these rows give it."""
        plan, slots = self.plan, self._slots.to(x.device)
        routes = plan.on(site.place)
        table = torch.cat([site.table, site.table.new_zeros(1, ENTRY_WIDTH)])
        table[slots, 2] &= ~KIND_ABS  # the rows before may have been Arrow's
        out = ops.gated_lora(
            base, x, *spread, site.lora_A, site.lora_B_packed, table,
            routes.row_route, routes.records, plan.top_k, plan.temperature,
        )  # fmt: skip
        return held(out, plan)


class TriedGates:
    """Rows for all input groups, in force inside `request()`."""

    def __init__(self, meteora: Attached, classes: Classes, rows: Mapping[str, Rows]) -> None:
        """`rows`: by the path of each group's leader, in the order of the classes."""
        self._context = meteora._context
        self._classes = classes
        self._rows = [classes.spread(rows[group.leader.path]) for group in meteora.groups]

    def request(self) -> Block:
        """A request that follows them; it can be opened once."""
        return self._context.enter(self._classes.plan.taken_over(self), "trying gates")

    def __call__(self, site: Site, base: Tensor, x: Tensor) -> Tensor:
        """The site's part."""
        weights, biases = self._rows[site.group]
        if weights.device != x.device:
            weights, biases = self._rows[site.group] = weights.to(x.device), biases.to(x.device)
        return self._classes.add(site, base, x, (weights, biases))
