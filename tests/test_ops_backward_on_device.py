"""The gradient for a device: that of the CPU, without a look at what any tensor holds."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from meteora_rs.ops.backward import gated_lora_backward
from meteora_rs.ops.backward_on_device import backward_on_device
from meteora_rs.ops.layout import auto_record, fixed_record
from op_case import OpCase, make_case
from test_ops_backward import by_autograd, routed
from tolerance import assert_close_to_reference
from torch import Tensor


def gradient_of(case: OpCase) -> Tensor:
    return torch.randn(case.base.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 15.0])
@pytest.mark.parametrize("top_k", [1, 2, 8])
def test_is_that_of_the_cpu(top_k: int, temperature: float) -> None:
    case = routed(top_k, temperature, torch.float64)
    grad_out = gradient_of(case)
    for mine, theirs in zip(
        backward_on_device(grad_out, *case.args()[1:]), gated_lora_backward(grad_out, *case.args()[1:]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_the_types_that_models_have(dtype: torch.dtype) -> None:
    case = routed(2, 1.0, dtype)
    grad_out = gradient_of(case).to(dtype)
    exact = by_autograd(case, torch.float64, grad_out)
    plain = by_autograd(case, dtype, grad_out)
    for mine, right, theirs in zip(backward_on_device(grad_out, *case.args()[1:]), exact, plain, strict=True):
        assert_close_to_reference(mine, right, theirs.to(mine.dtype))


def test_nothing_is_read_back() -> None:
    case = routed(2, 1.0, torch.float32)
    tensors = {f.name: getattr(case, f.name) for f in fields(case)}
    unknown = replace(case, **{name: v.to("meta") for name, v in tensors.items() if isinstance(v, Tensor)})
    dx, dgate, dbias = backward_on_device(unknown.base, *unknown.args()[1:])
    assert (dx.shape, dgate.shape, dbias.shape) == (case.x.shape, case.gate.shape, case.gate_bias.shape)


def test_rows_that_hold_anything_reach_nobody() -> None:
    every = [auto_record([0, 1, 3], 4), fixed_record({0: 0.5, 3: 0.5}, 4)]
    clean = make_case([4, 8, 3, 16], every, [0, 1, 0], shape=(3, 2), sign_free=[2])
    hurt = replace(
        clean, gate=clean.gate.clone(), lora_A=clean.lora_A.clone(), lora_B_packed=clean.lora_B_packed.clone()
    )
    hurt.gate[2] = torch.nan
    for half in hurt.weights_of(2):
        half.fill_(torch.inf)
    found, expected = (backward_on_device(clean.base, *case.args()[1:]) for case in (hurt, clean))
    for mine, right in zip(found, expected, strict=True):
        assert torch.equal(mine, right)


def test_more_slots_than_bits_of_a_word() -> None:
    slots = 70
    case = make_case([slot % 3 for slot in range(slots)], [auto_record(range(1, slots, 2), slots)], [0], shape=(3,),
                     top_k=5)  # fmt: skip
    grad_out = torch.randn(case.base.shape)
    for mine, theirs in zip(
        backward_on_device(grad_out, *case.args()[1:]), gated_lora_backward(grad_out, *case.args()[1:]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
