"""In which precision a fit runs the model."""

from __future__ import annotations

import pytest
import torch
from meteora_rs import _native
from meteora_rs.gates.fit.fast_products import fast_products
from torch import nn


@pytest.mark.parametrize(
    ("dtype", "has", "inside"),
    [
        (torch.float32, True, torch.bfloat16),
        (torch.float32, False, torch.float32),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float64, True, torch.float64),
    ],
)
def test_only_a_float32_model_reads_faster_and_only_where_the_cpu_can(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, has: bool, inside: torch.dtype
) -> None:
    monkeypatch.setattr(_native, "has_bf16_products", lambda: has)
    linear = nn.Linear(4, 3, dtype=dtype)
    x = torch.ones(2, 4, dtype=dtype)
    with fast_products(linear):
        assert linear(x).dtype == inside
    assert linear(x).dtype == dtype


def test_who_reads_in_another_precision_already_goes_on_so() -> None:
    linear = nn.Linear(4, 3, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16), fast_products(linear):
        assert torch.is_autocast_enabled("cpu")
