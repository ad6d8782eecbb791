"""Weights for each token, against the sum written out."""

from __future__ import annotations

import pytest
import torch
from meteora_rs.ops.backward import products_backward
from meteora_rs.ops.layout import fixed_record
from meteora_rs.ops.weighted import TokenWeights, _on_device, weighted_lora
from op_case import OpCase, make_case
from torch import Tensor

SLOTS = 5
CHOSEN = [[0, 1, 3], [1, 4, -1], [-1, -1, -1], [2, 3, 4], [0, -1, -1]]


def case(dtype: torch.dtype = torch.float32) -> tuple[OpCase, Tensor, Tensor]:
    """A call, its slots `[10, 3]` and its weights, some of them negative."""
    made = make_case((4, 8, 0, 3, 16), [fixed_record({}, SLOTS)], [0], x_dtype=dtype)
    return made, torch.tensor(CHOSEN * 2, dtype=torch.int32), torch.randn(10, 3)


def plain(made: OpCase, slots: Tensor, x: Tensor, weights: Tensor, base: Tensor) -> Tensor:
    y = base.reshape(10, -1).double()
    tokens = x.reshape(10, -1).double()
    for slot, entry in enumerate(made.entries()):
        if entry.rank:
            a, b = (half.double() for half in made.weights_of(slot))
            w = torch.where(slots == slot, weights.double(), 0.0).sum(1, keepdim=True)
            y = y + w * entry.scaling * (tokens @ a.T) @ b
    return y.reshape(base.shape)


def ours(made: OpCase, slots: Tensor, x: Tensor, weights: Tensor, base: Tensor) -> Tensor:
    chosen = TokenWeights.of(slots, weights, SLOTS)
    return weighted_lora(
        base, x, chosen, made.gate, made.gate_bias, made.lora_A, made.lora_B_packed, made.table
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value(dtype: torch.dtype) -> None:
    made, slots, weights = case(dtype)
    out = ours(made, slots, made.x, weights, made.base)
    assert out.dtype == dtype and out.shape == made.base.shape
    wanted = plain(made, slots, made.x, weights, made.base)
    assert torch.allclose(out.double(), wanted, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)
    rows = torch.tensor(CHOSEN * 2).eq(-1).all(1).reshape(2, 5)
    assert torch.equal(out[rows], made.base[rows])


def test_gradients() -> None:
    made, slots, weights = case()
    given = [made.x, weights, made.base]
    leaves = [[t.clone().requires_grad_() for t in given] for _ in range(2)]
    grad = torch.randn_like(made.base)
    got = torch.autograd.grad(ours(made, slots, *leaves[0]), leaves[0], grad)
    wanted = torch.autograd.grad(plain(made, slots, *leaves[1]), leaves[1], grad.double())
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other.float(), rtol=1e-4, atol=1e-4)


def test_gradients_for_which_no_host_waits_are_the_same() -> None:
    made, slots, weights = case()
    weights[0, 1] = 0.0  # chosen all the same: its gradient is not 0
    dy, x = torch.randn(10, made.base.shape[-1]), made.x.reshape(10, -1)
    state = (made.lora_A, made.lora_B_packed)
    wanted = products_backward(dy, x, slots, weights, *state, made.entries())
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):  # which has no value to wait for
        _on_device(dy, x, slots, weights, *state, made.table)
    got = _on_device(dy, x, slots, weights, *state, made.table)
    assert wanted[1][0, 1] != 0
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
