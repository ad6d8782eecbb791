"""What `attach` changes in a model, and how it is undone."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from meteora_rs import _native, ops
from meteora_rs.attached.checkpoint import bring_plans, forget_plans
from meteora_rs.attached.continuous import ENTRANCE, unrouted
from meteora_rs.attached.linear import CONTEXTS, attached_class
from meteora_rs.attached.routed_site import RoutedSite
from meteora_rs.config import MeteoraConfig
from meteora_rs.errors import MeteoraError
from meteora_rs.routes import Auto
from meteora_rs.routing.context import RoutingContext
from meteora_rs.sites.architecture import SiteInfo
from meteora_rs.sites.groups import InputGroup
from meteora_rs.sites.site import Site

SITE_NAME = "meteora_site"
"""The name under which a linear holds its `Site` as a submodule."""


class Patch:
    """Linears change class, and gain a submodule without entries in the state_dict; `forward` and `generate` of the
    model hold one snapshot from their start to their end."""

    def __init__(
        self, model: nn.Module, infos: list[SiteInfo], registry: _native.Registry, config: MeteoraConfig
    ) -> None:
        self._model: nn.Module | None = model
        # Kernels keep top_k places for each token: no more of them than there are slots.
        top_k = min(config.top_k, registry.slots)
        self.context = RoutingContext(registry, top_k, config.temperature, config.require_routing)
        self.sites: list[Site] = []
        self.groups: list[InputGroup] = []
        self._linears: list[nn.Linear] = []
        self._undo: list[Callable[[], None]] = []
        members: dict[str, list[Site]] = {}
        for index, info in enumerate(infos):
            linear = model.get_submodule(info.path)
            assert isinstance(linear, nn.Linear)
            group = list(members).index(info.leader) if info.leader in members else len(members)
            leads = info.path == info.leader
            site = RoutedSite(info.path, index, group, leads, linear, registry, self.context.graph_routes)
            members.setdefault(info.leader, []).append(site)
            self.sites.append(site)
            self._linears.append(linear)
        self.groups = [InputGroup(sites) for sites in members.values()]

    @property
    def active(self) -> bool:
        """Whether the model is still patched."""
        return self._model is not None

    @property
    def model(self) -> nn.Module:
        """The patched model.

        Raises:
            MeteoraError: the patch has been removed.
        """
        if self._model is None:
            raise MeteoraError("this Meteora has been detached from its model")
        return self._model

    def install(self) -> None:
        """Change the model; all that can fail has been done before."""
        CONTEXTS[id(self.context)] = self.context
        forget = weakref.finalize(self.model, CONTEXTS.pop, id(self.context), None)
        self._undo.append(lambda: forget() and None)
        self._undo.append(functools.partial(forget_plans, self.model, self.context))
        for linear, site in zip(self._linears, self.sites, strict=True):
            self._install_linear(linear, site)
        for name in ("forward", "generate"):
            if hasattr(self.model, name):
                self._wrap(self.model, name)
        if hasattr(self.model, ENTRANCE):
            entrance = getattr(self.model, ENTRANCE)
            self._replace(self.model, ENTRANCE, unrouted(entrance, self.context, lambda: self.active))
        decoder = getattr(self.model, "base_model", None)
        if isinstance(decoder, nn.Module) and decoder is not self.model:
            self._wrap(decoder, "forward")

    def remove(self) -> None:
        """Undo `install`, last change first."""
        while self._undo:
            self._undo.pop()()
        self._model = None
        self.context.requires_routing = False

    def on_remove(self, undo: Callable[[], None]) -> None:
        """Have `undo` called before what has been changed until now is undone."""
        self._undo.append(undo)

    def _install_linear(self, linear: nn.Linear, site: Site) -> None:
        original = type(linear)
        attached = attached_class(original)
        linear.__class__ = attached
        linear.add_module(SITE_NAME, site)
        # Beside the submodule, plain attributes: nn.Module's own look-up of a submodule costs 0.3 µs a call.
        object.__setattr__(linear, "_meteora_site", site)
        object.__setattr__(linear, "_meteora_id", id(self.context))
        hooked = getattr(linear, "_old_forward", None)
        if hooked is not None:  # accelerate's hooks have kept the bound forward of the stock class
            object.__setattr__(linear, "_old_forward", attached.forward.__get__(linear))

        def undo() -> None:
            linear.__class__ = original
            del linear._modules[SITE_NAME]
            for name in ("_meteora_site", "_meteora_id"):
                linear.__dict__.pop(name)
            # Hooks may have come or gone meanwhile: what they keep of the attached class goes, the rest is theirs.
            for name in ("forward", "_old_forward"):
                if getattr(linear.__dict__.get(name), "__func__", None) is attached.forward:
                    kept = hooked if hooked is not None else original.forward.__get__(linear)
                    object.__setattr__(linear, name, kept)

        self._undo.append(undo)

    def _wrap(self, model: nn.Module, name: str) -> None:
        inner: Callable[..., Any] = getattr(model, name)
        context = self.context

        @functools.wraps(inner)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                context.check_routed()
                return inner(*args, **kwargs)
            if not self.active or context.is_inside():
                return inner(*args, **kwargs)
            context.check_routed()
            plan = context.plan([Auto()], None) if context.is_default() else context.current()
            with context.enter(plan, name, inside=True):  # from here on an error's traceback holds no adapter
                plan.check_rows(_rows(args, kwargs))
                if not plan.is_base:
                    ops.refuse_transforms()
                    if torch._C._get_tracing_state() is not None:
                        ops.refuse_export()
                if model.training and torch.is_grad_enabled():
                    bring_plans(model, context)
                return inner(*args, **kwargs)

        self._replace(model, name, wrapper)

    def _replace(self, model: nn.Module, name: str, wrapper: Callable[..., Any]) -> None:
        before = model.__dict__.get(name)
        setattr(model, name, wrapper)

        def undo() -> None:
            if model.__dict__.get(name) is not wrapper:
                return  # somebody has wrapped the wrapper, which from now on only passes on
            if before is None:
                delattr(model, name)
            else:
                setattr(model, name, before)

        self._undo.append(undo)


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The batch size of a call of `forward` or `generate`, where it can be told."""
    candidates = [*args[:1], *(kwargs.get(key) for key in ("input_ids", "inputs", "inputs_embeds"))]
    tensors = [value for value in candidates if isinstance(value, torch.Tensor) and value.dim() >= 2]
    return tensors[0].shape[0] if tensors else None
