"""The gradient of the op: against autograd through plain torch, and against finite differences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from meteora_rs.ops.backward import gated_lora_backward
from meteora_rs.ops.layout import auto_record, fixed_record
from meteora_rs.ops.reference import gated_lora
from op_case import OpCase, make_case
from plain_op import plain_gated_lora
from tolerance import assert_close_to_reference
from torch import Tensor

SLOTS = 5
RANKS = (4, 8, 0, 3, 16)
RECORDS = [
    fixed_record({3: 0.7, 0: 0.3}, SLOTS),
    fixed_record({}, SLOTS),
    auto_record(range(SLOTS), SLOTS),
    auto_record([1, 2, 4], SLOTS),
    auto_record([], SLOTS),
]


def by_autograd(case: OpCase, dtype: torch.dtype, grad_out: Tensor) -> tuple[Tensor, ...]:
    """The gradients for x, gate and gate_bias through plain torch in `dtype`."""
    x, gate, bias = (t.to(dtype).requires_grad_() for t in (case.x, case.gate, case.gate_bias))
    y = plain_gated_lora(case, case.base, x, gate, bias, dtype)
    return torch.autograd.grad(y, [x, gate, bias], grad_out.to(dtype), allow_unused=False)


def by_hand(case: OpCase, grad_out: Tensor) -> tuple[Tensor, ...]:
    """The gradients under test."""
    return gated_lora_backward(grad_out, *case.args()[1:])


def routed(top_k: int, temperature: float, dtype: torch.dtype) -> OpCase:
    return make_case(
        RANKS,
        RECORDS,
        [2, 0, 3, 1, 2, 4],
        shape=(6, 2),
        sign_free=[1, 3],
        top_k=top_k,
        temperature=temperature,
        x_dtype=dtype,
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 15.0])
@pytest.mark.parametrize("top_k", [1, 2, 3, 8])
def test_is_what_autograd_finds(top_k: int, temperature: float) -> None:
    case = routed(top_k, temperature, torch.float64)
    grad_out = torch.randn(case.base.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = by_autograd(case, torch.float64, grad_out)
    for actual, expected in zip(by_hand(case, grad_out), exact, strict=True):
        rtol = 1e-6 if actual.dtype == torch.float32 else 1e-11
        assert torch.allclose(actual.double(), expected, rtol=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_holds_the_tolerance_in_every_dtype(dtype: torch.dtype) -> None:
    case = routed(2, 1.0, dtype)
    grad_out = torch.randn(case.base.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = by_autograd(case, torch.float64, grad_out)
    plain = by_autograd(case, dtype, grad_out)
    for actual, reference, same in zip(by_hand(case, grad_out), exact, plain, strict=True):
        assert_close_to_reference(actual, reference, same.to(actual.dtype))


class Differentiable(torch.autograd.Function):
    """The reference with the gradient under test."""

    @staticmethod
    def forward(ctx: Any, case: OpCase, base: Tensor, x: Tensor, gate: Tensor, gate_bias: Tensor) -> Tensor:
        ctx.case = replace(case, base=base, x=x, gate=gate, gate_bias=gate_bias)
        return gated_lora(*ctx.case.args())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, grads[0], *by_hand(ctx.case, grads[0])


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_is_what_finite_differences_find(top_k: int) -> None:
    case = make_case(RANKS, RECORDS, [2, 0, 3], shape=(3, 1), d_in=6, d_out=4, sign_free=[1, 3], top_k=top_k)
    inputs = [t.double().requires_grad_() for t in (case.base, case.x, case.gate, case.gate_bias)]
    assert torch.autograd.gradcheck(lambda *given: Differentiable.apply(case, *given), inputs)


def test_fixed_routes_give_gates_no_gradient() -> None:
    case = make_case(RANKS, RECORDS, [0, 1], sign_free=[1])
    dx, dgate, dbias = by_hand(case, torch.ones_like(case.base))
    assert not dgate.any()
    assert not dbias.any()
    assert dx[0].any()
    assert not dx[1].any()


def test_one_adapter_at_a_time_gives_gates_no_gradient() -> None:
    case = make_case(RANKS, RECORDS, [2], top_k=1)
    _, dgate, dbias = by_hand(case, torch.ones_like(case.base))
    assert not dgate.any()
    assert not dbias.any()


def test_a_gate_that_is_not_finite_has_no_gradient_and_spoils_none() -> None:
    case = make_case(RANKS, RECORDS, [2], top_k=2)
    case.gate[0] = math.nan
    case.gate[1, 0] = math.inf
    gradients = by_hand(case, torch.ones_like(case.base))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[1][:2].any()
