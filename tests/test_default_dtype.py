"""A default dtype of torch that is not float32, as many set it to build a bfloat16 model, changes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from meteora_rs import attach_pretrained
from tiny import equal, logits, prompt
from tiny_numbers import Numbers, adapter, attached, drawn, texts
from torch import Tensor

QUIET: dict[str, Any] = {"tokenizer": Numbers(), "progress": False}


def results(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """What routing, fits, training and a bundle bring under a default dtype."""
    meteora = attached()
    model, found, third = meteora.model, {}, adapter(meteora)
    ids = prompt() % 50
    torch.set_default_dtype(dtype)
    try:
        found["routed"] = logits(model, ids)
        meteora.fit_gates(texts(0, 8), refine=True, **QUIET)
        meteora.load_adapter(third, "third", gate=drawn(random.Random(3), range(47, 50), 8), tokenizer=Numbers())
        found["fitted"] = logits(model, ids)
        meteora.save_pretrained(folder)
        model.requires_grad_(False)
        meteora.train_gates({**texts(0, 8), "third": texts(4, 8)["second"]}, steps=2, top_k=2, **QUIET)
        found["trained"] = logits(model, ids)
        meteora.train_gates({**texts(0, 8), "third": texts(4, 8)["second"]}, steps=2, cold=True, **QUIET)
        found["cold"] = logits(model, ids)
        meteora.train_flow_gate(texts(0, 8)["first"], steps=2, **QUIET)
        found["flowing"] = logits(model, ids)
        meteora.detach()
        found["read back"] = logits(attach_pretrained(model, folder).model, ids)
    finally:
        torch.set_default_dtype(torch.float32)
    assert equal(found["read back"], found["fitted"])
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_all_is_float32_whatever_the_default(tmp_path: Path, dtype: torch.dtype) -> None:
    usual = results(tmp_path / "usual", torch.float32)
    other = results(tmp_path / "other", dtype)
    assert {name: equal(other[name], tensor) for name, tensor in usual.items()} == dict.fromkeys(usual, True)
