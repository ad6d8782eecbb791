"""`torch.ops.meteora_rs.gated_lora` against its specification, and what it makes of any arguments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import meteora_rs.ops
import pytest
import torch
from meteora_rs.ops.layout import auto_record, fixed_record
from meteora_rs.ops.reference import gated_lora as reference
from op_case import OpCase, make_case
from plain_op import plain
from tiny import equal
from tolerance import assert_close_to_reference
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def op(case: OpCase) -> Tensor:
    out: Tensor = torch.ops.meteora_rs.gated_lora(*case.args())
    return out


def hold(case: OpCase) -> None:
    """The tolerance rule, for one case."""
    assert_close_to_reference(op(case), reference(*case.args()), plain(case, case.base.dtype))


def ranks(count: int) -> list[int]:
    """Unequal ranks from 0 to 64; every seventh adapter misses the site."""
    return [0 if slot % 7 == 6 else (1, 64, 8, 3, 17, 16)[slot % 6] for slot in range(count)]


def records(slots: int) -> tuple[list[list[int]], list[int]]:
    """Every kind of route, and rows that mix them."""
    every = [
        auto_record(range(slots), slots),
        fixed_record({}, slots),
        fixed_record({slots - 1: 1.0}, slots),
        fixed_record({slot: 0.5 + slot for slot in range(min(slots, 3))}, slots),
        auto_record(range(0, slots, 2), slots),
        auto_record([], slots),
    ]
    return every, [0, 3, 1, 4, 2, 5, 0]


# Each value of each axis at least twice; all combinations would be some 1,500.
GRID = [
    (24, 17, 1, 1, torch.float32), (133, 133, 2, 1, torch.bfloat16), (133, 576, 8, 5, torch.float32),
    (576, 133, 28, 2, torch.float16), (576, 576, 5, 2, torch.float32), (576, 1536, 64, 8, torch.float32),
    (1536, 576, 33, 3, torch.bfloat16), (1536, 133, 32, 4, torch.float16), (4096, 576, 8, 2, torch.float32),
    (576, 4096, 3, 8, torch.bfloat16), (4096, 133, 64, 1, torch.float16), (1, 1, 2, 2, torch.float32),
]  # fmt: skip


@pytest.mark.parametrize(("d_in", "d_out", "slots", "top_k", "dtype"), GRID)
@pytest.mark.parametrize("tokens", [1, 5], ids=["decode", "prefill"])
def test_is_what_the_specification_says(
    d_in: int, d_out: int, slots: int, top_k: int, dtype: torch.dtype, tokens: int
) -> None:
    every, rows = records(slots)
    shape = (len(rows), tokens)
    hold(
        make_case(ranks(slots), every, rows, shape=shape, d_in=d_in, d_out=d_out, x_dtype=dtype, top_k=top_k,
                  temperature=0.7, sign_free=range(0, slots, 3))
    )  # fmt: skip


def test_a_long_prefill() -> None:
    every, rows = records(28)
    hold(make_case(ranks(28), every, [*rows, 3], shape=(8, 96), d_in=133, d_out=64))


@pytest.mark.parametrize("x_dtype", DTYPES)
@pytest.mark.parametrize("base_dtype", DTYPES)
def test_input_and_base_may_differ_in_type(x_dtype: torch.dtype, base_dtype: torch.dtype) -> None:
    case = make_case(ranks(5), *records(5), shape=(7, 2), x_dtype=x_dtype)
    case = replace(case, base=case.base.to(base_dtype))
    out = op(case)
    assert out.dtype == base_dtype
    # x is given exactly, so only the base's type counts.
    exact = replace(case, x=case.x.float(), base=case.base)
    assert_close_to_reference(out, reference(*exact.args()), plain(exact, base_dtype))


def test_ties_go_to_the_lowest_slots() -> None:
    case = make_case([4] * 6, [auto_record([1, 2, 4, 5], 6)], [0])
    case = replace(case, gate=torch.zeros_like(case.gate), gate_bias=torch.zeros(6))
    fixed = case.with_routes([fixed_record({1: 0.5, 2: 0.5}, 6)], [0])
    assert equal(op(case), op(fixed))


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_an_adapter_that_is_not_chosen_changes_no_bit(bad: float) -> None:
    case = make_case([4, 8, 3, 16], [auto_record(range(4), 4), auto_record([0, 1], 4)], [0, 1])
    gate = case.gate.clone()
    gate[2] = bad
    hurt = replace(case, gate=gate, lora_A=case.lora_A.clone(), lora_B_packed=case.lora_B_packed.clone())
    for half in hurt.weights_of(2):
        half.fill_(bad)
    if math.isnan(bad):  # -inf times a negative input is +inf, which is chosen
        without = case.with_routes([auto_record([0, 1, 3], 4), auto_record([0, 1], 4)], [0, 1])
        assert equal(op(hurt), op(without))
    listed = [fixed_record({3: 1.0}, 4), auto_record([0, 1], 4)]
    assert equal(op(hurt.with_routes(listed, [0, 1])), op(case.with_routes(listed, [0, 1])))


@pytest.mark.parametrize("record", [fixed_record({}, 3), auto_record([], 3), fixed_record({2: 1.0}, 3)])
def test_nothing_chosen_is_the_base_bit_for_bit(record: list[int]) -> None:
    case = make_case([4, 8, 0], [record], [0])
    base = case.base.clone()
    base[0, 0, 0], base[0, 0, 1] = -0.0, float("nan")
    assert equal(op(replace(case, base=base)), base)


def test_the_largest_logits_do_not_overflow() -> None:
    case = make_case([4, 8, 3], [auto_record(range(3), 3)], [0], temperature=1e-3)
    huge = replace(case, gate=case.gate * 1e38, x=case.x * 1e3)
    assert op(huge).isfinite().all()
    hold(huge)


def test_strided_arguments() -> None:
    case = make_case(ranks(5), *records(5), shape=(7, 4))
    strided = replace(
        case,
        x=case.x.transpose(0, 1).contiguous().transpose(0, 1),
        base=torch.stack([case.base, case.base], -1)[..., 1],
    )
    assert not strided.x.is_contiguous() and not strided.base.is_contiguous()
    before = strided.base.clone()
    assert equal(op(strided), op(case))
    assert equal(strided.base, before)
    assert op(strided).is_contiguous()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0,)])
def test_no_tokens_no_output(shape: tuple[int, ...]) -> None:
    assert op(make_case([4], [auto_record([0], 1)], [0], shape=shape)).shape == (*shape, 17)


def test_the_number_of_threads_changes_no_bit() -> None:
    case = make_case(ranks(28), *records(28), shape=(7, 33), d_in=576, d_out=133)
    before, outputs = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outputs.append(op(case))
    torch.set_num_threads(before)
    assert all(equal(out, outputs[0]) for out in outputs)


def test_a_token_does_not_see_its_batch() -> None:
    every, rows = records(9)
    case = make_case(ranks(9), every, rows, shape=(7, 6), d_in=133, d_out=65)
    whole = op(case)
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    permuted = replace(case, x=case.x[order], base=case.base[order]).with_routes(every, [rows[i] for i in order])
    assert equal(op(permuted), whole[order])
    for row, route in enumerate(rows):
        for token in (slice(0, 6), slice(2, 3)):
            alone = replace(case, x=case.x[row : row + 1, token], base=case.base[row : row + 1, token])
            assert equal(op(alone.with_routes(every, [route])), whole[row : row + 1, token])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes_change_no_bit(mode: Any) -> None:
    case = make_case(ranks(5), *records(5), shape=(7, 2))
    before = op(case)
    with mode():
        assert equal(op(case), before)
    with torch.autocast("cpu", torch.bfloat16):
        assert equal(op(case), before)
    assert equal(meteora_rs.ops.gated_lora(*case.args()), before)
