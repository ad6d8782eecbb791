"""What a request may say about adapters: `Auto()`, a name, `Mix`, or `"__base__"`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import TypeAlias

from meteora_rs.errors import RouteError

BASE = "__base__"
"""The route that uses no adapter, and the name of the base as a class of its own in `fit_gates`."""

GROUP_MARK = "@"
"""What begins a group's name in `Auto(only=…)`."""

LARGEST = (2 - 2**-23) * 2.0**127
"""The largest float32: kernels hold weights in that type."""


@dataclass(frozen=True)
class Auto:
    """Let the gates choose, for each token and layer, among all routable adapters, or among `only` some.

    `only` has names, aliases and `"@group"`s (`Meteora.set_group`), or is one `"@group"`; all are looked up when a
    request begins. Where `fit_gates` made the base a class of its own, the gates may choose it too: a token then gets
    no adapter.
    Arrow's logits and fitted ones are on different scales, so fit an adapter that shall compete with fitted ones.

    Raises:
        RouteError: `only` is no list, an empty one, a single name, or holds what is no string.
    """

    only: tuple[str, ...] | None = None

    def __init__(self, only: Sequence[str] | str | None = None) -> None:
        if isinstance(only, str) and only.startswith(GROUP_MARK):
            only = [only]
        if isinstance(only, str):
            raise RouteError(f"only must be a list of names, not the string {only!r}; for one adapter write [{only!r}]")
        if only is not None and not isinstance(only, Collection):
            raise RouteError(f"only must be a list of names, not {only!r}")
        if only is not None and len(only) == 0:
            raise RouteError("only is empty: it allows no adapter; use '__base__' for the base alone")
        for name in only or ():
            _check_name("Auto", name)
        object.__setattr__(self, "only", None if only is None else tuple(only))


@dataclass(frozen=True)
class Mix:
    """Fixed weights: `y = W0·x + Σ weight_i · s_i · B_i(A_i x)`; the weights need not sum to 1.

    Raises:
        RouteError: no mapping, no adapter, or a weight that is negative or not finite.
    """

    weights: Mapping[str, float]

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not isinstance(weights, Mapping):
            raise RouteError(f"Mix takes weights by name, as in Mix({{'math': 0.5}}), not {weights!r}")
        if not weights:
            raise RouteError("Mix needs at least one adapter")
        checked: dict[str, float] = {}
        for name, weight in weights.items():
            _check_name("Mix", name)
            if isinstance(weight, bool) or not isinstance(weight, Real):
                raise RouteError(f"Mix: the weight of {name!r} must be a number, not {weight!r}")
            if not 0 <= weight <= LARGEST:
                raise RouteError(f"Mix: the weight of {name!r} must be finite and not negative, not {weight!r}")
            checked[name] = float(weight)
        object.__setattr__(self, "weights", MappingProxyType(checked))

    def __reduce__(self) -> tuple[type[Mix], tuple[dict[str, float]]]:  # a mapping proxy can't be pickled
        return Mix, (dict(self.weights),)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.weights.items())))


def _check_name(kind: str, name: object) -> None:
    if not isinstance(name, str):
        raise RouteError(f"{kind}: an adapter's name is a string, not {name!r}")


Route: TypeAlias = Auto | Mix | str

NativeRoute: TypeAlias = tuple[str, list[str], list[float]]
"""(kind, names, weights) as the boundary reads it; kind is auto, only, named, mix or base."""


def to_native(route: Route) -> NativeRoute:
    """The route in the boundary's form.

    Raises:
        RouteError: `route` is no route at all.
    """
    if isinstance(route, Auto):
        return ("auto", [], []) if route.only is None else ("only", list(route.only), [])
    if isinstance(route, Mix):
        return ("mix", list(route.weights), list(route.weights.values()))
    if isinstance(route, str) and route.startswith(GROUP_MARK):
        raise RouteError(f"{route!r} is a group, and a route is one adapter: use Auto(only={route!r})")
    if isinstance(route, str):
        return ("base", [], []) if route == BASE else ("named", [route], [])
    raise RouteError(f"a route is Auto(), Mix(), an adapter's name or {BASE!r}, not {route!r}")
