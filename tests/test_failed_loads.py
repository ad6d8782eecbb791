"""A load, a reload or a change of gates that fails leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.errors import (
    AdapterFormatError,
    AdapterInUseError,
    AdapterNotFoundError,
    AdapterUnsupportedError,
    CapacityError,
    MeteoraError,
)
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model, usage
from torch import Tensor
from transformers import PreTrainedModel

IDS = prompt()
Q_PROJ = "model.layers.0.self_attn.q_proj"
BAD_GATES: dict[str, Callable[[Meteora], Any]] = {
    "gate of no site": lambda m: {"lm_head": torch.zeros(64)},
    "gate too short": lambda m: {Q_PROJ: torch.zeros(63)},
    "gate with holes": lambda m: {Q_PROJ: torch.zeros(64)},
    "gate of NaN": lambda m: {Q_PROJ: torch.full((64,), torch.nan)},
    "gate of integers": lambda m: {Q_PROJ: torch.zeros(64).long()},
    "gate of a triple": lambda m: {Q_PROJ: (torch.zeros(64), 0.0, 1)},
    "gate of a number": lambda m: {Q_PROJ: 1.0},
    "bias of text": lambda m: {Q_PROJ: (torch.zeros(64), "x")},
    "bias beyond float32": lambda m: {s.path: (torch.zeros(s.in_features), 1e39) for s in m.sites},
}


def by(meteora: Meteora, route: Any) -> Tensor:
    with meteora.routing(route):
        return logits(meteora.model, IDS)


def _load_with(source: Any, gate: Callable[[Meteora], Any]) -> Callable[[Meteora], object]:
    return lambda m: m.load_adapter(source, "new", gate=gate(m))


def failures(model: PreTrainedModel) -> dict[str, tuple[Callable[[Meteora], object], type[Exception]]]:
    good, bad = adapter(model, 4, seed=5), adapter(model, 4, seed=5)
    bad["tensors"][next(reversed(bad["tensors"]))][0, 0] = float("nan")
    return {
        "NaN": (lambda m: m.load_adapter(bad, "new"), AdapterFormatError),
        "reload NaN": (lambda m: m.reload_adapter("math", bad), AdapterFormatError),
        "DoRA": (
            lambda m: m.load_adapter({**good, "config": {**good["config"], "use_dora": True}}, "new"),
            AdapterUnsupportedError,
        ),
        "name taken": (lambda m: m.load_adapter(good, "math"), AdapterInUseError),
        "reload unknown": (lambda m: m.reload_adapter("new", good), AdapterNotFoundError),
        "unload unknown": (lambda m: m.unload_adapter("new"), AdapterNotFoundError),
        "pin unknown": (lambda m: m.pin_adapter("new"), AdapterNotFoundError),
        "too large": (lambda m: m.load_adapter(adapter(model, 65), "new"), CapacityError),
        "reload too large": (lambda m: m.reload_adapter("math", adapter(model, 65)), CapacityError),
        "no such gate": (lambda m: m.load_adapter(good, "new", gate="best"), ValueError),
        **{what: (_load_with(good, gate), AdapterFormatError) for what, gate in BAD_GATES.items()},
        "set_gates beyond float32": (
            lambda m: m.set_gates({"math": {s.path: (torch.zeros(s.in_features), -1e39) for s in m.sites}}),
            AdapterFormatError,
        ),
        "set_gates, second wrong": (
            lambda m: m.set_gates({"math": gate_rows(m, 1), "law": {Q_PROJ: torch.zeros(64)}}),
            AdapterFormatError,
        ),
        "set_gates unknown": (
            lambda m: m.set_gates({"math": gate_rows(m, 1), "new": gate_rows(m, 2)}), AdapterNotFoundError
        ),
    }  # fmt: skip


@pytest.mark.parametrize("what", failures(tiny_model()))
def test_a_failure_leaves_everything_as_it_was(loaded: Meteora, model: PreTrainedModel, what: str) -> None:
    action, error = failures(model)[what]
    adapters, stats, auto, math = loaded.adapters(), usage(loaded), by(loaded, Auto()), by(loaded, "math")
    with pytest.raises(error) as caught:
        action(loaded)
    assert isinstance(caught.value, MeteoraError) or error is ValueError
    assert loaded.adapters() == adapters
    assert usage(loaded) == stats
    assert equal(by(loaded, Auto()), auto) and equal(by(loaded, "math"), math)
    loaded.load_adapter(adapter(model, 4, seed=9), "new")
