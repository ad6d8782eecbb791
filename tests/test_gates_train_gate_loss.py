"""The gate term against torch's own cross-entropy."""

from __future__ import annotations

import pytest
import torch
from meteora_rs.gates.train.gate_loss import gate_loss
from torch import Tensor
from torch.nn.functional import cross_entropy


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    x = torch.randn(3, 5, 13).to(dtype).requires_grad_()
    weight, bias = torch.randn(4, 13, requires_grad=True), torch.randn(4, requires_grad=True)
    places = torch.tensor([0, 1, 4, 7, 8, 14])
    return x, weight, bias, torch.tensor([3, 0, 1, 1, 2, 0]), places


def plain(x: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    return cross_entropy(x.reshape(-1, 13)[places].float() @ weight.T + bias, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_and_gradients(dtype: torch.dtype) -> None:
    given = case(dtype)
    ours, theirs = gate_loss(*given), plain(*given)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, atol=1e-6)
    wanted = torch.autograd.grad(3 * theirs, given[:3])
    for got, want in zip(torch.autograd.grad(3 * ours, given[:3]), wanted, strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        assert torch.allclose(got.float(), want.float(), atol=1e-6 if dtype == torch.float32 else 1e-3)


def test_autocast_does_not_coarsen_it() -> None:
    given = case()
    alone = gate_loss(*given)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gate_loss(*given), alone)


def test_tokens_that_do_not_count_have_no_part() -> None:
    x, *rest = case()
    spoiled = x.detach().clone()
    spoiled[0, 2] = torch.nan
    spoiled.requires_grad_()
    assert torch.equal(gate_loss(spoiled, *rest), gate_loss(x, *rest))
    gate_loss(spoiled, *rest).backward()
    assert spoiled.grad is not None and not spoiled.grad[0, 2].any()


def test_the_input_is_not_kept() -> None:
    x, *rest = case()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gate_loss(x, *rest)
    assert max(kept) < x.numel()
