"""A model with a host tier, and what one without says that has all adapters at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import meteora_rs
from meteora_rs import Meteora, MeteoraConfig
from tiny import adapter, gate_rows, logits, prompt, tiny_model, write
from torch import Tensor
from transformers import PreTrainedModel

IDS = prompt()
NAMES = ("a", "b", "c", "d", "e")
HOST = 8 << 20


def attached(model: PreTrainedModel, slots: int = 2, host_bytes: int = HOST, timeout: float = 120.0) -> Meteora:
    config = MeteoraConfig(max_adapters=slots, pool_rank=8 * slots, host_bytes=host_bytes, admission_timeout=timeout)
    return meteora_rs.attach(model, config)


def by(meteora: Meteora, route: Any) -> Tensor:
    with meteora.routing(route):
        return logits(meteora.model, IDS)


def alone(route: Any, *, gates: bool = False) -> Tensor:
    """What a model says that has all five adapters in its pools, and had them in the same order."""
    model = tiny_model()
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=5, pool_rank=40))
    for seed, name in enumerate(NAMES):
        gate: Any = gate_rows(meteora, seed) if gates else "arrow"
        meteora.load_adapter(adapter(model, 4, seed=seed), name, gate=gate)
    return by(meteora, route)


def live(meteora: Meteora) -> set[str]:
    return {record.name for record in meteora.adapters()}


def size_of_one(model: PreTrainedModel, tmp_path: Path) -> int:
    """Bytes of the host tier that an adapter takes."""
    meteora = attached(model)
    meteora.register_adapter(write(adapter(model, 4), tmp_path / "one"), "one")
    used = meteora.stats().tiers["host"].touched
    meteora.detach()
    return used
