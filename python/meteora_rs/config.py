"""What `attach` is told once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from numbers import Integral, Real

from meteora_rs.limits import Limits

SMALLEST, LARGEST = 2.0**-126, 2.0**127
"""Bounds of a temperature: kernels divide by it in float32."""

LARGEST_POOL = 1 << 20
"""The most rank rows that pools may have."""

OF_HOST = ("limits", "adapter_root", "require_routing")
"""Fields that say what a host permits; a bundle, which may come from elsewhere, has none of them."""


@dataclass(frozen=True)
class MeteoraConfig:
    """Sizes and routing defaults of an attached model; all fixed at attach, none needs a restart to load more.

    Args:
        top_k: adapters that a token may mix at most, ≥ 1 (MeteoRA, arXiv 2405.13053, §3.2: 1 or 2).
        temperature: T in `softmax(v / T)` over the chosen logits, > 0 and finite as a float32.
        max_adapters: slots, 1 to 4,096.
        pool_rank: rank rows for all adapters together, in the model's dtype; each adapter takes its rank rounded
            up to 8, and twice that if its elements are twice as wide as the model's.
        host_bytes: memory for adapters that are registered beyond what the pools hold (`register_adapter`), taken as it
            is filled; 0: none, and nothing is ever evicted.
        admission_timeout: seconds that a request waits at most for room for its adapters, ≥ 0.
        limits: how large an adapter may be.
        adapter_root: the folder that all adapters lie in. Paths are relative to it, or absolute and inside it; none
            leads out, by `..` or by a link (what is opened is found from a descriptor of the root, so nothing can be
            exchanged between check and use), and nothing is fetched from the hub. None: any path, and hub ids.
        require_routing: outside of a `routing()` block the model answers nothing, compiled or not: `forward`,
            `generate` and `trace()` raise a RouteError there. False: they follow `Auto()`, which may choose any
            adapter, whosever it is.

    Raises:
        ValueError: a field is of another type or out of range.
    """

    top_k: int = 2
    temperature: float = 1.0
    max_adapters: int = 32
    pool_rank: int = 256
    host_bytes: int = 0
    admission_timeout: float = 30.0
    limits: Limits = field(default_factory=Limits)
    adapter_root: str | os.PathLike[str] | None = None
    require_routing: bool = False

    def __post_init__(self) -> None:
        self._require_integer("max_adapters", 1, 4096)
        self._require_integer("top_k", 1, (1 << 62) - 1)
        self._require_integer("pool_rank", 1, LARGEST_POOL)
        self._require_integer("host_bytes", 0, (1 << 47) - 1)
        self._require_number("admission_timeout", 0.0, LARGEST, "0 or more seconds")
        self._require_number("temperature", SMALLEST, LARGEST, "finite and above 0 as a float32")
        self._require("limits", isinstance(self.limits, Limits), "a Limits")
        self._require("require_routing", isinstance(self.require_routing, bool), "True or False")
        self._require("adapter_root", isinstance(self.adapter_root, str | os.PathLike | None), "a path or None")

    def _require_integer(self, field: str, least: int, most: int) -> None:
        value = getattr(self, field)
        fits = _is(value, Integral) and least <= value <= most
        self._require(field, fits, f"an integer from {least} to {most}")
        object.__setattr__(self, field, int(value))  # numpy's are no JSON

    def _require_number(self, field: str, least: float, most: float, wanted: str) -> None:
        value = getattr(self, field)
        fits = _is(value, Real) and least <= value <= most
        self._require(field, fits, wanted)
        object.__setattr__(self, field, float(value))

    def _require(self, field: str, fits: bool, wanted: str) -> None:
        if not fits:
            raise ValueError(f"{field} must be {wanted}, not {getattr(self, field)!r}")


def _is(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
