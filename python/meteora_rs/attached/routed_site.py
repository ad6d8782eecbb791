"""What a site adds to its linear's output, by the plan in force."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from meteora_rs import _native, ops
from meteora_rs.errors import MeteoraError, RouteError
from meteora_rs.routing.graph_routes import GraphRoutes
from meteora_rs.routing.plan import Plan, held
from meteora_rs.sites.site import Site

# Who records what torch is asked to do (make_fx, say) must see the op; asking costs about 0.05 µs a call.
_dispatch_modes = torch._C._len_torch_dispatch_stack
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class RoutedSite(Site):
    """A site that computes the part of the adapters that a plan routes to it."""

    def __init__(
        self,
        path: str,
        index: int,
        group: int,
        leads: bool,
        module: nn.Linear,
        registry: _native.Registry,
        graph_routes: GraphRoutes,
    ) -> None:
        self._graph_routes = graph_routes  # before the rest, which binds
        super().__init__(path, index, group, leads, module, registry)

    def _bind(self) -> None:
        super()._bind()
        self._graph_addresses = self._graph_routes.on(self.gate.device) if self.kernel.on_device else None

    def add(self, base: Tensor, x: Tensor, plan: Plan) -> Tensor:
        """`base + Σ w_i s_i B_i(A_i x)` for the plan in force; `base [..., out]` may be written in place."""
        if torch.compiler.is_compiling():
            if torch.compiler.is_exporting():
                ops.refuse_export()
            return self._op(base, x, plan)
        if plan.takes_over is not None:
            self._refuse_graph()
            return plan.takes_over(self, base, x)
        if plan.is_base and plan.trace is None and not self._in_graph():
            return base
        # The kernels go by these: as many tokens of each. Leading shapes agree, so base's last dimension does as well.
        if x.shape[-1] != self.in_features or x.numel() * self.out_features != base.numel() * self.in_features:
            self._refuse_shapes(base, x)
        if plan.listed > 1 and x.numel() // self.in_features % plan.listed:
            self._refuse_tokens(x, plan.listed)
        if (
            base.get_device() != self.place
            or not base.is_contiguous()
            or base.is_meta
            or type(base) is not Tensor
            or _dispatch_modes()
            or (torch.is_grad_enabled() and (base.requires_grad or x.requires_grad or self.gate.requires_grad))
        ):
            if plan.trace is not None:
                self._eager(base.detach().clone(), x.detach(), plan)
            ops.refuse_transforms()
            self._refuse_graph()
            return held(self._op(base, x, plan), plan)
        # The same kernel through a shorter door: a call through torch's dispatcher costs about as much as one
        # token's arithmetic, and there are seven of them in every layer.
        self._eager(base, x, plan)
        return base

    def _in_graph(self) -> bool:
        """Whether what is launched now is for routes that are not known yet."""
        return self._graph_addresses is not None and self.kernel.is_capturing()

    def _refuse_graph(self) -> None:
        if self._in_graph():
            raise MeteoraError(
                "a graph that is captured here would keep the routes of now: capture it under torch.no_grad(), and not "
                "in training or with a gate for whole layers"
            )

    def _refuse_shapes(self, base: Tensor, x: Tensor) -> NoReturn:
        raise MeteoraError(
            f"{self.path}: attached with {self.in_features} → {self.out_features} features, called with "
            f"{list(x.shape)} → {list(base.shape)}: its weight was replaced, attach anew"
        )

    def _refuse_tokens(self, x: Tensor, rows: int) -> NoReturn:
        """Tokens are told by their place in whole rows: of a part of them, some would get another row's adapters."""
        raise RouteError(
            f"{self.path}: called with {list(x.shape)}, no whole number of tokens for each of {rows} routes: the "
            "model sorts tokens by other than their rows here (experts, say); give one route for all rows"
        )

    def _eager(self, base: Tensor, x: Tensor, plan: Plan) -> None:
        given = x
        if not x.is_contiguous():
            x = x.contiguous()
        try:
            to = _DTYPES[base.dtype]
            of = to if x.dtype is base.dtype else _DTYPES[x.dtype]
        except KeyError as error:
            raise MeteoraError(
                f"{self.path}: the model must be float32, float16 or bfloat16 to use adapters, not {error}"
            ) from None
        if self._graph_addresses is not None:
            routes = plan.on(self.place).addresses
            counted = None if given.is_inference() else (given, given._version)
            captured = self.kernel.launch(
                plan.native,
                routes,
                self._graph_addresses,
                counted,
                x.data_ptr(),
                base.data_ptr(),
                x.numel(),
                of,
                to,
                plan.trace is not None,
            )
            if captured:
                self._graph_routes.capture(plan)
        else:
            self.kernel.forward(plan.native, x.data_ptr(), base.data_ptr(), x.numel(), of, to)
        if plan.trace is not None:
            plan.trace.record(plan.native, self.index, x.shape, self.kernel.selection())

    def _op(self, base: Tensor, x: Tensor, plan: Plan) -> Tensor:
        routes = plan.on(self.place)
        return ops.gated_lora(
            base,
            x,
            self.gate,
            self.gate_bias,
            self.lora_A,
            self.lora_B_packed,
            self.table,
            routes.row_route,
            routes.records,
            plan.top_k,
            plan.temperature,
        )
