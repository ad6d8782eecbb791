"""One adapted linear's state, and the class that makes a stock linear add it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any, NoReturn, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from meteora_rs import _native, ops
from meteora_rs.context import CPU, Plan, RoutingContext
from meteora_rs.errors import MeteoraError
from meteora_rs.graph_routes import GraphRoutes

# Who records what torch is asked to do (make_fx, say) must see the op; asking costs about 0.05 µs a call.
_dispatch_modes = torch._C._len_torch_dispatch_stack
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


CONTEXTS: dict[int, RoutingContext] = {}
"""The contexts of the attached models. A global, because a tensor that torch.compile reaches through a module has a
static shape: each new number of routes would be a recompilation."""


class Site(nn.Module):
    """The gate, the pools and the table of one linear, as torch buffers at fixed addresses.

    `gate [slots, in] f32`, `gate_bias [slots] f32`, `lora_A [bytes] u8`, `lora_B_packed [bytes] u8`,
    `table [slots, 4] i32` (rust/core/src/layout.rs), `gate_screen [slots, bytes] u8` (rust/core/src/kernel/screen.rs;
    gates are written by `_native.write_gates`, which keeps both). None is in a `state_dict`; they begin on the
    linear's device, and `.to(device)` moves them, while `.half()` and the like leave them as they are: adapters keep
    their own dtype.
    """

    gate: Tensor
    gate_bias: Tensor
    gate_screen: Tensor
    lora_A: Tensor
    lora_B_packed: Tensor
    table: Tensor

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
        super().__init__()
        self.path, self.index, self.group, self.leads = path, index, group, leads
        self._graph_routes = graph_routes
        self.in_features, self.out_features = module.in_features, module.out_features
        slots, pages = registry.slots, registry.pages
        self.kernel = _native.SiteKernel(registry, index, group, leads, self.in_features, self.out_features)
        bytes_per_column = pages * _native.PAGE_BYTES_PER_COLUMN
        # In the order in which the kernel takes their addresses.
        self._forms: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "gate": (torch.float32, (slots, self.in_features)),
            "gate_bias": (torch.float32, (slots,)),
            "gate_screen": (torch.uint8, (slots, self.kernel.screen_stride)),
            "lora_A": (torch.uint8, (bytes_per_column * self.in_features,)),
            "lora_B_packed": (torch.uint8, (bytes_per_column * self.out_features,)),
            "table": (torch.int32, (slots, 4)),
        }
        device = execution_device(module)
        with torch.inference_mode(False):  # else the buffers could only be written in that mode
            for name, (dtype, shape) in self._forms.items():
                large = dtype == torch.uint8
                zeros = _untouched(shape, device) if large else torch.zeros(shape, dtype=dtype, device=device)
                self.register_buffer(name, zeros, persistent=False)
        self._bind()

    def _bind(self) -> None:
        """Look the buffers' addresses up anew, and load the kernels where they are a CUDA device's.

        Raises:
            MeteoraError: a buffer is not what the kernels read at its address.
        """
        buffers = [getattr(self, name) for name in self._forms]
        for (name, (dtype, shape)), buffer in zip(self._forms.items(), buffers, strict=True):
            if buffer.dtype != dtype or buffer.shape != shape or not buffer.is_contiguous():
                found = f"{buffer.dtype} {list(buffer.shape)}" + ("" if buffer.is_contiguous() else ", not contiguous")
                self.kernel.unbind()
                raise MeteoraError(f"{self.path}: {name}: expected {dtype} {list(shape)}, contiguous, found {found}")
        devices = {(b.device.type, b.device.index) for b in buffers}
        kind, index = devices.pop() if len(devices) == 1 else ("several", None)
        self.place: int | None = {"cpu": CPU, "cuda": index}.get(kind)
        if self.place is None:
            self.kernel.unbind()
        else:
            # What torch has written there, moving the buffers, comes before what loads write on another stream.
            if kind == "cuda":
                torch.cuda.current_stream(index).synchronize()
            self.kernel.bind(index, *(b.data_ptr() for b in buffers))
        self._graph_addresses = self._graph_routes.on(self.gate.device) if self.kernel.on_device else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Site:
        # Of what `fn` does, only the move: not a cast, by .half() or .type(dtype), nor the emptying of .to_empty().
        for name in self._forms:
            buffer = getattr(self, name)
            moved = fn(torch.empty(0, dtype=torch.int32, device=buffer.device)).device
            self._buffers[name] = buffer.to(moved)
        self._bind()
        return self

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


def held(out: Tensor, plan: Plan) -> Tensor:
    """`out`, whose backward pass, if it has one, reads the rows of the plan's snapshot: it holds them until then."""
    if out.grad_fn is not None:
        node: Any = out.grad_fn
        node.metadata["meteora_lease"] = plan.backward_lease()
    return out


def _untouched(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zero bytes, which on the CPU take memory only where they are written.

    Mapped rather than `torch.zeros`, which clears what the allocator had before: that made loading 28 adapters cost
    twice their bytes.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.uint8, device=device)
    memory = mmap(-1, prod(shape), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)


def execution_device(module: nn.Linear) -> torch.device:
    """Where a linear computes: at its weight, or where accelerate brings an offloaded weight."""
    device = module.weight.device
    if device.type != "meta":
        return device
    planned = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if planned is None else planned)


class AttachedLinear(nn.Linear):
    """Mixed in before a linear's own class; the linear stays what it was, its output gains the adapters' part."""

    _meteora_site: Site
    _meteora_id: int

    def forward(self, input: Tensor) -> Tensor:
        """The linear's own output plus the routed adapters' (see `Site.add`)."""
        return self._meteora_site.add(super().forward(input), input, CONTEXTS[self._meteora_id].current())

    # Both hold for whatever contains the linear: to copy or pickle a model is to copy or pickle its linears.
    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise MeteoraError(
            "an attached model can't be deep-copied: copy the base before attach(), or detach() first, and attach "
            "the copy by itself"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise MeteoraError(
            "an attached model can't be pickled whole: save the base with save_pretrained() (its state_dict holds no "
            "adapter) and the adapters with Meteora.save_pretrained(), or detach() first"
        )


class AttachedPlainLinear(AttachedLinear):
    """The same for linears whose forward is that of `nn.Linear`, without its detours: they take as long as ours."""

    def forward(self, input: Tensor) -> Tensor:
        """The linear's own output plus the routed adapters' (see `Site.add`)."""
        own = self._parameters  # nn.Module looks a parameter up in three places before this one
        weight = own.get("weight")
        if weight is None or "bias" not in own:  # pruned or parametrized since
            return super().forward(input)
        base = linear(input, weight, own["bias"])
        return self._meteora_site.add(base, input, CONTEXTS[self._meteora_id].current())


_CLASSES: dict[type[nn.Linear], type[nn.Linear]] = {}


def attached_class(base: type[nn.Linear]) -> type[nn.Linear]:
    """The subclass of `base` that adds a site's output; named like `base`, so that printed models stay the same."""
    if base not in _CLASSES:
        members = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
        mixin = AttachedPlainLinear if base.forward is nn.Linear.forward else AttachedLinear
        _CLASSES[base] = type(base.__name__, (mixin, base), members)
    return _CLASSES[base]
