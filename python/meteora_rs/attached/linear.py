"""The classes that make a stock linear add its site's part."""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex

from torch import Tensor, nn
from torch.nn.functional import linear

from meteora_rs.attached.routed_site import RoutedSite
from meteora_rs.errors import MeteoraError
from meteora_rs.routing.context import RoutingContext

CONTEXTS: dict[int, RoutingContext] = {}
"""The contexts of the attached models. A global, because a tensor that torch.compile reaches through a module has a
static shape: each new number of routes would be a recompilation."""


class AttachedLinear(nn.Linear):
    """Mixed in before a linear's own class; the linear stays what it was, its output gains the adapters' part."""

    _meteora_site: RoutedSite
    _meteora_id: int

    def forward(self, input: Tensor) -> Tensor:
        """The linear's own output plus the routed adapters' (see `RoutedSite.add`)."""
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
        """The linear's own output plus the routed adapters' (see `RoutedSite.add`)."""
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
