"""Sizes and defaults that `attach` is told."""

from __future__ import annotations

import meteora_rs
import pytest
from meteora_rs import MeteoraConfig
from tiny import adapter, equal, logits, prompt
from transformers import PreTrainedModel


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 0), ("temperature", 0.0), ("temperature", float("nan")), ("temperature", 1e-50),
        ("temperature", 1e50), ("max_adapters", 0), ("max_adapters", 4097), ("pool_rank", 0),
    ],
)  # fmt: skip
def test_sizes_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        MeteoraConfig(**{field: value})  # type: ignore[arg-type]


def test_more_top_k_than_adapters_is_all_of_them(model: PreTrainedModel) -> None:
    outputs = []
    for top_k in (2, 10**12):
        meteora = meteora_rs.attach(model, MeteoraConfig(top_k=top_k, max_adapters=2))
        for seed in (1, 2):
            meteora.load_adapter(adapter(model, seed=seed), f"a{seed}")
        outputs.append(logits(model, prompt()))
        meteora.detach()
    assert equal(*outputs)
