"""Sizes and defaults that `attach` is told."""

from __future__ import annotations

import json
import re
from typing import Any

import meteora_rs
import numpy as np
import pytest
from meteora_rs import Meteora, MeteoraConfig
from tiny import adapter, equal, logits, prompt
from transformers import PreTrainedModel


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("top_k", [0, 2.5, True, "2", None, 1 << 64]),
        ("temperature", [0.0, float("nan"), 1e-50, 1e50, 10**400, True, "1", None, 1j]),
        ("max_adapters", [0, 4097, 3.0, "3"]),
        ("pool_rank", [0, 8.0, "8"]),
        ("host_bytes", [-1, 1 << 47, 1e6, "1"]),
        ("admission_timeout", [-1, float("inf"), float("nan"), 10**400, "30"]),
        ("limits", [None, {}, 3]),
        ("require_routing", [1, None, "yes"]),
        ("adapter_root", [3, b"here", ["here"]]),
    ],
)
def test_what_a_field_cannot_be(field: str, wrong: list[Any]) -> None:
    for value in wrong:
        with pytest.raises(ValueError, match=f"^{field} must be .*, not {re.escape(repr(value))}$"):
            MeteoraConfig(**{field: value})


def test_numbers_of_other_kinds_are_pythons() -> None:
    config = MeteoraConfig(top_k=np.int64(3), pool_rank=np.int32(16), temperature=np.float32(0.5), admission_timeout=1)
    assert config == MeteoraConfig(top_k=3, pool_rank=16, temperature=0.5, admission_timeout=1.0)
    assert json.loads(json.dumps([config.top_k, config.pool_rank, config.temperature])) == [3, 16, 0.5]


def test_a_block_checks_its_own(loaded: Meteora) -> None:
    for options in ({"top_k": 1.5}, {"top_k": True}, {"temperature": "1"}):
        with pytest.raises(ValueError, match="must be"), loaded.routing("math", **options):
            pytest.fail("it was taken")


def test_more_top_k_than_adapters_is_all_of_them(model: PreTrainedModel) -> None:
    outputs = []
    for top_k in (2, 10**12):
        meteora = meteora_rs.attach(model, MeteoraConfig(top_k=top_k, max_adapters=2))
        for seed in (1, 2):
            meteora.load_adapter(adapter(model, seed=seed), f"a{seed}")
        outputs.append(logits(model, prompt()))
        meteora.detach()
    assert equal(*outputs)
