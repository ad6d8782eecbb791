"""backward() inside torch.autocast, which then is on in what computes gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from meteora_rs import Meteora, ops
from meteora_rs.gates.train.gate_loss import gate_loss
from meteora_rs.ops.backward_on_device import backward_on_device
from meteora_rs.ops.layout import auto_record
from meteora_rs.ops.precision import without_autocast
from meteora_rs.ops.weighted import TokenWeights, weighted_lora
from op_case import OpCase, make_case
from tiny import equal, prompt
from torch import Tensor
from transformers import PreTrainedModel


def case() -> OpCase:
    return make_case((4, 8, 0, 3), [auto_record(range(4), 4)], [0])


def of_gates(inside: bool) -> list[Tensor]:
    made = case()
    leaves = [t.requires_grad_() for t in (made.x, made.gate, made.gate_bias)]
    return backward(ops.gated_lora(*made.args()), leaves, inside)


def of_weights(inside: bool) -> list[Tensor]:
    made, slots = case(), torch.tensor([[0, 1], [1, 3]] * 5, dtype=torch.int32)
    weights = torch.linspace(-1, 1, 20).reshape(10, 2).requires_grad_()
    chosen, leaves = TokenWeights.of(slots, weights, 4), [made.x.requires_grad_(), weights]
    state = (made.gate, made.gate_bias, made.lora_A, made.lora_B_packed, made.table)
    return backward(weighted_lora(made.base, made.x, chosen, *state), leaves, inside)


def of_the_gate_term(inside: bool) -> list[Tensor]:
    made = case()
    leaves = [t.requires_grad_() for t in (made.x, made.gate, made.gate_bias)]
    return backward(gate_loss(*leaves, torch.tensor([0, 3]), torch.tensor([1, 7])), leaves, inside)


def on_a_device(inside: bool) -> list[Tensor]:
    made = case()
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        return list(without_autocast(backward_on_device)(made.base, *made.args()[1:]))


def backward(out: Tensor, leaves: list[Tensor], inside: bool) -> list[Tensor]:
    loss = out.square().sum()
    with torch.autocast("cpu", torch.bfloat16, enabled=inside):
        return list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("of", [of_gates, of_weights, of_the_gate_term, on_a_device])
def test_gradients_are_those_of_outside(of: Callable[[bool], list[Tensor]]) -> None:
    assert all(equal(one, other) for one, other in zip(of(True), of(False), strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_trains(loaded: Meteora, model: PreTrainedModel, compiled: bool) -> None:
    model.train()
    call = torch.compile(model, backend="aot_eager") if compiled else model
    with torch.autocast("cpu", torch.bfloat16):
        call(prompt(), labels=prompt()).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
