"""The op as torch sees it: its checks, gradients, and arguments that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from meteora_rs.ops.layout import auto_record, fixed_record
from meteora_rs.ops.reference import gated_lora as reference
from op_case import OpCase, make_case
from plain_op import plain_gated_lora
from tolerance import assert_close_to_reference

OP = torch.ops.meteora_rs.gated_lora
ROUTES = [auto_record(range(4), 4), fixed_record({2: 0.5, 0: 2.0}, 4), fixed_record({}, 4)]


def case(**more: Any) -> OpCase:
    return make_case([4, 8, 0, 3], ROUTES, [0, 1, 2], shape=(3, 2), sign_free=[1], **more)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of torch's own tests
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grads", [(), ("x",), ("base", "x", "gate", "gate_bias")])
def test_opcheck(dtype: torch.dtype, grads: tuple[str, ...]) -> None:
    c = case(x_dtype=dtype)
    c = replace(c, **{name: getattr(c, name).clone().requires_grad_() for name in grads})
    torch.library.opcheck(OP, c.args())


def test_opcheck_of_strided_arguments() -> None:
    c = case()
    torch.library.opcheck(OP, replace(c, x=c.x.transpose(0, 1).contiguous().transpose(0, 1)).args())


def test_gradients_are_those_of_plain_torch() -> None:
    c = case(temperature=0.7)
    names = ("base", "x", "gate", "gate_bias")
    weight = torch.randn(c.base.shape)

    def grads(run: Callable[..., torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [getattr(c, name).detach().to(dtype).requires_grad_() for name in names]
        (run(*leaves) * weight.to(dtype)).sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    actual = grads(lambda *v: OP(*replace(c, **dict(zip(names, v, strict=True))).args()), torch.float32)
    exact = grads(lambda *v: plain_gated_lora(c, *v, torch.float64), torch.float64)
    plain = grads(lambda *v: plain_gated_lora(c, *v, torch.float32), torch.float32)
    assert len(actual) == len(exact) == len(plain) == 4
    for values in zip(actual, exact, plain, strict=True):
        assert_close_to_reference(*values)


def test_only_what_needs_a_gradient_gets_one() -> None:
    c = case()
    c.base.requires_grad_()
    OP(*c.args()).sum().backward()
    assert torch.equal(c.base.grad, torch.ones_like(c.base))
    assert c.x.grad is None and c.gate.grad is None


GARBAGE: dict[str, Callable[[OpCase], dict[str, Any]]] = {
    "x of another width": lambda c: {"x": c.x[..., :-1]},
    "x of another shape": lambda c: {"x": c.x[:2]},
    "x a scalar": lambda c: {"x": torch.tensor(1.0)},
    "x of integers": lambda c: {"x": c.x.long()},
    "x of float64": lambda c: {"x": c.x.double()},
    "base a scalar": lambda c: {"base": torch.tensor(1.0)},
    "base of float64": lambda c: {"base": c.base.double()},
    "gate in bfloat16": lambda c: {"gate": c.gate.bfloat16()},
    "gate of more slots": lambda c: {"gate": torch.zeros(9, 24)},
    "gate a vector": lambda c: {"gate": torch.zeros(24)},
    "gate strided": lambda c: {"gate": c.gate.T.contiguous().T},
    "gate_bias short": lambda c: {"gate_bias": c.gate_bias[:1]},
    "gate_bias of float64": lambda c: {"gate_bias": c.gate_bias.double()},
    "lora_A empty": lambda c: {"lora_A": torch.zeros(0, dtype=torch.uint8)},
    "lora_A short": lambda c: {"lora_A": c.lora_A[:-4096]},
    "lora_A of floats": lambda c: {"lora_A": c.lora_A.float()},
    "lora_B empty": lambda c: {"lora_B_packed": torch.zeros(0, dtype=torch.uint8)},
    "table of int64": lambda c: {"table": c.table.long()},
    "table narrow": lambda c: {"table": c.table[:, :3].contiguous()},
    "page beyond the pool": lambda c: {"table": c.table + torch.tensor([10**6, 0, 0, 0], dtype=torch.int32)},
    "page negative": lambda c: {"table": c.table - torch.tensor([10, 0, 0, 0], dtype=torch.int32)},
    "rank huge": lambda c: {"table": c.table + torch.tensor([0, 2**30, 0, 0], dtype=torch.int32)},
    "row_route empty": lambda c: {"row_route": torch.zeros(0, dtype=torch.int32)},
    "row_route of int64": lambda c: {"row_route": c.row_route.long()},
    "row_route beyond": lambda c: {"row_route": c.row_route + 3},
    "row_route negative": lambda c: {"row_route": c.row_route - 1},
    "routes narrow": lambda c: {"routes": c.routes[:, :3].contiguous()},
    "routes a vector": lambda c: {"routes": c.routes[0]},
    "routes empty": lambda c: {"routes": c.routes[:0]},
    "a slot beyond": lambda c: {"routes": torch.tensor([fixed_record({7: 1.0}, 4)] * 3, dtype=torch.int32)},
    "a count beyond": lambda c: {"routes": torch.tensor([[0, 100, *[0] * 8]] * 3, dtype=torch.int32)},
    "a count negative": lambda c: {"routes": torch.tensor([[0, -1, *[0] * 8]] * 3, dtype=torch.int32)},
    "a candidate beyond": lambda c: {"routes": torch.tensor([[1, 1, 1 << 20, *[0] * 7]] * 3).int()},
    "top_k zero": lambda c: {"top_k": 0},
    "top_k negative": lambda c: {"top_k": -1},
    "temperature zero": lambda c: {"temperature": 0.0},
    "temperature negative": lambda c: {"temperature": -1.0},
    "temperature NaN": lambda c: {"temperature": float("nan")},
    "temperature 0 as float32": lambda c: {"temperature": 1e-60},
}  # fmt: skip

NOTHING: dict[str, Callable[[OpCase], dict[str, Any]]] = {
    "page the least": lambda c: {"table": c.table.clone().fill_(-(2**31))},
    "rank negative": lambda c: {"table": c.table - torch.tensor([0, 100, 0, 0], dtype=torch.int32)},
    "a slot negative": lambda c: {"routes": torch.tensor([[0, 1, -9, *[0] * 7]] * 3, dtype=torch.int32)},
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_refused(what: str) -> None:
    good = case()
    bad = replace(good, **GARBAGE[what](good))
    with pytest.raises(RuntimeError, match="meteora_rs::gated_lora"):
        OP(*bad.args())
    assert torch.isfinite(OP(*good.args())).all()


@pytest.mark.parametrize("what", NOTHING)
def test_what_is_below_zero_adds_nothing(what: str) -> None:
    good = case()
    assert torch.equal(OP(*replace(good, **NOTHING[what](good)).args()), good.base)


@pytest.mark.parametrize("top_k", [100, 2**40, 2**62])
def test_more_top_k_than_slots_is_all_of_them(top_k: int) -> None:
    out = OP(*replace(case(), top_k=top_k).args())
    assert torch.allclose(out.double(), reference(*replace(case(), top_k=4).args()), atol=1e-4)


def test_other_devices_have_no_kernel_and_the_fake_has_no_data() -> None:
    meta = [value.to("meta") if isinstance(value, torch.Tensor) else value for value in case().args()]
    out = OP(*meta)
    assert out.device.type == "meta" and out.shape == case().base.shape
