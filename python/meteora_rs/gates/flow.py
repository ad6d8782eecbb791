"""LoRA-Flow's gate: one for each decoder layer, which weights all adapters at once.

    w = softmax(W x) + b        x: the layer's input; the same w at every linear of the layer

(Wang et al. 2024, arXiv 2402.11455, section 3.2; learnt from some 200 examples by `gates.train.flow`). Nothing is
chosen: every adapter is computed, which is as much work as a `Mix` of all. While it is in force, it stands in for the
sites' own rows wherever a route leaves the choice to the gates; `Auto(only=…)` restricts the softmax to some.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from meteora_rs.attached.attached import Attached
from meteora_rs.errors import AdapterFormatError, MeteoraError, RouteError
from meteora_rs.files.tensor_file import save_tensors
from meteora_rs.ops.layout import ROUTE_AUTO, auto_candidates, fixed_weights
from meteora_rs.ops.precision import without_autocast
from meteora_rs.ops.weighted import TokenWeights, weighted_lora
from meteora_rs.routing.context import RoutingContext
from meteora_rs.routing.plan import LayerGate, Plan, held
from meteora_rs.sites.architecture import DECODER_LAYER
from meteora_rs.sites.site import Site


class FlowGate(nn.Module):
    """`weights[l] [N, in]` and `biases[l] [N]` for each decoder layer, float32; N adapters `names`.

    Begins as W = 0 and b = 0: all adapters with weight 1 / N each.
    """

    def __init__(self, names: Sequence[str], layers: dict[str, int]) -> None:
        super().__init__()
        self.names, self.layers = list(names), dict(layers)
        shapes = [(len(names), width) for width in layers.values()]
        self.weights = nn.ParameterList([torch.zeros(shape, dtype=torch.float32) for shape in shapes])
        self.biases = nn.ParameterList([torch.zeros(len(names), dtype=torch.float32) for _ in shapes])

    @classmethod
    def of(cls, meteora: Attached, names: Sequence[str]) -> FlowGate:
        """A gate for the decoder layers of an attached model."""
        return cls(names, decoder_layers(meteora))

    @without_autocast
    def weight(self, layer: int, x: Tensor, places: Sequence[int]) -> Tensor:
        """softmax(W x) + b over the adapters at `places`; x `[T, in]`. Returns `[T, len(places)]` float32."""
        rows, bias = self.weights[layer].to(x.device)[places], self.biases[layer].to(x.device)[places]
        weights: Tensor = torch.softmax(x.float() @ rows.T, dim=-1) + bias
        return weights

    def among(self, names: Container[str]) -> FlowGate | None:
        """The same gate without the adapters that are not among `names`, which weights the others as this one does when
        those are gone; None if none is left."""
        places = [place for place, name in enumerate(self.names) if name in names]
        if not places:
            return None
        gate = FlowGate([self.names[place] for place in places], self.layers)
        for mine, its in zip(self.parameters(), gate.parameters(), strict=True):
            its.data = mine.detach()[places]
        return gate.requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write the gate as a safetensors file."""
        tensors = {}
        for layer, weight, bias in zip(self.layers, self.weights, self.biases, strict=True):
            tensors[f"{layer}.weight"], tensors[f"{layer}.bias"] = weight.detach().cpu(), bias.detach().cpu()
        save_tensors(tensors, path, metadata={"format": "pt", "names": json.dumps(self.names)})

    @classmethod
    def load(cls, path: Path, layers: dict[str, int]) -> FlowGate:
        """Read what `save` wrote, for a model with these decoder layers.

        Raises:
            AdapterFormatError: it was made for another model, or is no such file.
            OSError: it can't be read.
        """
        try:
            with safe_open(path, framework="pt") as file:
                gate = cls(json.loads(file.metadata()["names"]), layers)
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        except OSError:
            raise
        except Exception as error:  # what safetensors raises is not exported
            raise AdapterFormatError(f"flow gate: {type(error).__name__}: {error} (file: {path})") from error
        for layer, weight, bias in zip(layers, gate.weights, gate.biases, strict=True):
            for key, parameter in ((f"{layer}.weight", weight), (f"{layer}.bias", bias)):
                tensor = found.pop(key, None)
                if tensor is None or tensor.shape != parameter.shape or not bool(tensor.isfinite().all()):
                    raise AdapterFormatError(
                        f"flow gate: tensor {key} is missing, not finite, or not {list(parameter.shape)} (file: {path})"
                    )
                parameter.data.copy_(tensor)
        if found:
            raise AdapterFormatError(f"flow gate: tensor {min(found)} is of no layer of the model (file: {path})")
        return gate


def decoder_layers(meteora: Attached) -> dict[str, int]:
    """The paths of the decoder layers, in order, each with the width of its input."""
    widths: dict[str, int] = {}
    for site in meteora.sites:
        found = DECODER_LAYER.search(site.path)
        assert found is not None
        widths.setdefault(site.path[: found.end() - 1], site.in_features)  # a layer's first linear reads its input
    return widths


def checked(gate: FlowGate, meteora: Attached) -> FlowGate:
    """`gate` itself, held against the model and its adapters.

    Raises:
        AdapterNotFoundError, AdapterFormatError: see `Meteora.set_flow_gate`.
    """
    for name in gate.names:
        meteora.adapter(name)
    if gate.layers != (wanted := decoder_layers(meteora)):
        raise AdapterFormatError(f"flow gate: made for layers {gate.layers}; the model has {wanted}")
    return gate.requires_grad_(False)


def install(meteora: Attached) -> Callable[[], None]:
    """Let every decoder layer follow the flow gate of the plan in force, where it has one; returns what undoes it."""
    handles = []
    for index, path in enumerate(decoder_layers(meteora)):
        layer = meteora.model.get_submodule(path)
        hooks = _LayerHooks(meteora._context, index)
        handles.append(layer.register_forward_pre_hook(hooks.before, with_kwargs=True))
        handles.append(layer.register_forward_hook(hooks.after, always_call=True))

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


@torch.compiler.disable  # type: ignore[untyped-decorator]  # so that it is called, not traced
def _refuse_compiled() -> None:
    raise MeteoraError("a flow gate has no compiled form: set_flow_gate(None), or run the model uncompiled")


class _LayerHooks:
    """Puts a layer's weights in force for the time of its call, in the context of the thread that calls it."""

    def __init__(self, context: RoutingContext, index: int) -> None:
        self._context, self._index = context, index
        self._local = threading.local()

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plan = self._context.current()
        if plan.flow is None or plan.is_base:
            return
        if torch.compiler.is_compiling():
            _refuse_compiled()
        x = args[0] if args else kwargs["hidden_states"]
        weights = layer_weights(plan, plan.flow, self._index, x.reshape(-1, x.shape[-1]))
        entered = self._context.enter(
            plan.taken_over(_LayerPart(plan, weights)), "layer", inside=self._context.is_inside()
        )
        entered.__enter__()
        self._local.entered = entered

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        entered = self._local.__dict__.pop("entered", None)
        if entered is not None:
            entered.__exit__()


class _LayerPart:
    """Every site's part under one layer's weights."""

    def __init__(self, plan: Plan, chosen: TokenWeights) -> None:
        self._plan, self._chosen = plan, chosen

    def __call__(self, site: Site, base: Tensor, x: Tensor) -> Tensor:
        chosen, plan = self._chosen, self._plan
        out = weighted_lora(
            base, x, chosen, site.gate, site.gate_bias, site.lora_A, site.lora_B_packed, site.table
        )  # fmt: skip
        if plan.trace is not None:
            slots, weights = (each.detach().cpu().numpy().tobytes() for each in (chosen.slots, chosen.weights))
            plan.trace.record(plan.native, site.index, x.shape, (chosen.slots.shape[1], slots, weights))
        return held(out, plan)


def layer_weights(plan: Plan, flow: LayerGate, layer: int, x: Tensor) -> TokenWeights:
    """What each token's route makes of a layer's gate; x `[T, in]` is the layer's input.

    A route that leaves the choice to the gates gets softmax(W x) + b over those of the gate's adapters that it
    allows; a fixed one keeps its own weights.

    Raises:
        RouteError: a route allows none of the gate's adapters.
    """
    tokens, records = len(x), plan.routes.tolist()
    n_slots = (plan.routes.shape[1] - 2) // 2
    slot_of = {name: slot for slot, name in plan.native.names()}
    places = sorted((slot_of[name], place) for place, name in enumerate(flow.names) if name in slot_of)
    route_of_token = plan.row_route.long()[torch.arange(tokens) * len(plan.row_route) // max(tokens, 1)]
    width = max(len(places), *(record[1] for record in records if record[0] != ROUTE_AUTO), 1)
    slots = torch.full((tokens, width), -1, dtype=torch.int32, device=x.device)
    weights = torch.zeros(tokens, width, dtype=torch.float32, device=x.device)

    def sent(values: Tensor) -> Tensor:
        """To x's device, for which the host does not wait."""
        return values.to(x.device, non_blocking=True)

    for route in sorted(set(route_of_token.tolist())):
        record = records[route]
        mine = sent((route_of_token == route).nonzero()[:, 0])
        if record[0] == ROUTE_AUTO:
            candidates = set(auto_candidates(record, n_slots))
            allowed = [(slot, place) for slot, place in places if slot in candidates]
            if not allowed:
                raise RouteError(  # whose these are is not said: the request may be a tenant's
                    "route: none of its adapters is one of the flow gate's; set_flow_gate(None) lets the sites' own "
                    "gates choose"
                )
            own = flow.weight(layer, x[mine], [place for _, place in allowed])
            chosen = [slot for slot, _ in allowed]
        else:
            fixed = fixed_weights(record)
            given = torch.tensor(list(fixed.values()), dtype=torch.float32)
            chosen, own = list(fixed), sent(given).expand(len(mine), -1)
        slots[mine, : len(chosen)] = sent(torch.tensor(chosen, dtype=torch.int32))
        columns = torch.arange(len(chosen), device=x.device)
        weights = weights.index_put((mine[:, None], columns), own)
    return TokenWeights.of(slots, weights, n_slots)
