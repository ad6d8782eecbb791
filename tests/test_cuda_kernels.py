"""The CUDA kernels, on the emulator, against the specification: every form of launch over the op's grid."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

if shutil.which("g++") is None:
    pytest.skip("the emulator needs g++", allow_module_level=True)

from cuda_call import FORMS, Outcome, run
from meteora_rs.ops.layout import auto_record, fixed_record, float_bits
from meteora_rs.ops.reference import gated_lora as reference
from op_case import OpCase, make_case
from plain_op import plain, reference_slots
from tiny import equal
from tolerance import assert_close_to_reference
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DECODE = ("gather", "dense")


def ranks(count: int) -> list[int]:
    """Unequal ranks from 0 to 64; every seventh adapter misses the site."""
    return [0 if slot % 7 == 6 else (1, 64, 8, 3, 17, 16)[slot % 6] for slot in range(count)]


def records(slots: int) -> tuple[list[list[int]], list[int]]:
    """Every kind of route, and rows that mix them."""
    every = [
        auto_record(range(slots), slots),
        fixed_record({}, slots),
        fixed_record({slots - 1: 1.0}, slots),
        fixed_record({slot: (-1) ** slot * (0.5 + slot) for slot in range(min(slots, 3))}, slots),
        auto_record(range(0, slots, 2), slots),
        auto_record([], slots),
    ]
    return every, [0, 3, 1, 4, 2, 5, 0]


def hold(case: OpCase, outcome: Outcome) -> None:
    """The tolerance rule, and the same choice as the specification."""
    y = outcome.y[0].reshape(case.base.shape)
    assert_close_to_reference(y, reference(*case.args()), plain(case, case.base.dtype))
    slots, _ = reference_slots(case)
    chosen = [row[:count].tolist() for row, count in zip(outcome.slots[0], outcome.counts[0].tolist(), strict=True)]
    assert chosen == [[slot for slot in row if slot >= 0] for row in slots.tolist()]


# in, out, slots, top_k, dtype of x and y, dtypes of adapters (one: the tensor cores' way)
GRID: list[tuple[int, int, int, int, torch.dtype, Sequence[torch.dtype]]] = [
    (24, 17, 1, 1, torch.float32, DTYPES), (133, 133, 2, 1, torch.bfloat16, DTYPES),
    (133, 576, 8, 5, torch.float32, DTYPES), (576, 133, 28, 2, torch.float16, DTYPES),
    (576, 576, 5, 2, torch.float32, DTYPES), (576, 576, 64, 8, torch.bfloat16, (torch.bfloat16,)),
    (576, 136, 28, 2, torch.float16, (torch.float16,)), (1536, 576, 33, 3, torch.bfloat16, DTYPES),
    (136, 1536, 32, 4, torch.bfloat16, (torch.bfloat16, torch.float32)), (1, 1, 2, 2, torch.float32, DTYPES),
    (5128, 8, 3, 2, torch.bfloat16, DTYPES),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("d_in", "d_out", "slots", "top_k", "dtype", "dtypes"), GRID)
@pytest.mark.parametrize("tokens", [1, 5])
def test_is_what_the_specification_says(
    form: str, d_in: int, d_out: int, slots: int, top_k: int, dtype: torch.dtype, dtypes: Any, tokens: int
) -> None:
    every, rows = records(slots)
    case = make_case(ranks(slots), every, rows, shape=(len(rows), tokens), d_in=d_in, d_out=d_out, x_dtype=dtype,
                     dtypes=dtypes, top_k=top_k, temperature=0.7, sign_free=range(0, slots, 3))  # fmt: skip
    hold(case, run(case, form))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slots", [5, 40])
def test_a_long_prefill(dtype: torch.dtype, slots: int) -> None:
    every, rows = records(slots)
    case = make_case(ranks(slots), every, [*rows, 0], shape=(8, 37), d_in=136, d_out=72, x_dtype=dtype, dtypes=[dtype])
    hold(case, run(case, "prefill", places=max(2, min(slots, 3))))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_order_of_threads_and_blocks_changes_a_bit(form: str, seed: int) -> None:
    case = make_case(ranks(9), *records(9), shape=(7, 13), d_in=136, d_out=40, x_dtype=torch.bfloat16,
                     dtypes=[torch.bfloat16, torch.float32])  # fmt: skip
    assert equal(run(case, form, seed=seed).y[0], run(case, form).y[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_does_not_see_its_batch(dtype: torch.dtype) -> None:
    every, rows = records(9)
    case = make_case(ranks(9), every, rows, shape=(7, 3), d_in=133, d_out=65, x_dtype=dtype)
    outcomes = {form: run(case, form) for form in FORMS}
    outputs = {form: outcome.y[0].view(7, 3, 65) for form, outcome in outcomes.items()}
    assert equal(outputs["gather"], outputs["dense"])
    assert equal(outcomes["gather"].counts, outcomes["dense"].counts)
    for outcome in outcomes.values():
        for token, count in enumerate(outcome.counts[0].tolist()):
            assert outcomes["gather"].counts[0, token] == count
            assert equal(outcome.slots[0, token, :count], outcomes["gather"].slots[0, token, :count])
    for row, route in enumerate(rows):
        alone = replace(case, x=case.x[row, 1:2], base=case.base[row, 1:2]).with_routes(every, [route])
        for form in FORMS:
            for blocks in (1, 2):
                assert equal(run(alone, form, blocks=blocks).y[0], outputs[form][row, 1:2])


@pytest.mark.parametrize("d_in", [133, 9000, 20_488])
def test_how_many_threads_share_a_row_changes_no_bit(d_in: int) -> None:
    """Rows of one segment, of three, and of more than there are groups."""
    case = make_case([3, 0, 2], *records(3), shape=(7, 1), d_in=d_in, d_out=8, x_dtype=torch.bfloat16)
    outcome = run(case, "gather")
    hold(case, outcome)
    assert equal(run(case, "dense").y[0], outcome.y[0])
    for groups in (2, 3, 4):
        assert equal(run(case, "gather", groups=groups, seed=groups).y[0], outcome.y[0])


@pytest.mark.parametrize("form", FORMS)
def test_input_and_output_may_differ_in_type(form: str) -> None:
    for x_dtype in DTYPES:
        for dtype in DTYPES:
            case = make_case(ranks(5), *records(5), shape=(7, 2), x_dtype=x_dtype)
            case = replace(case, base=case.base.to(dtype))
            exact = replace(case, x=case.x.float())
            out = run(case, form).y[0].reshape(case.base.shape)
            assert_close_to_reference(out, reference(*exact.args()), plain(exact, dtype))


@pytest.mark.parametrize("form", FORMS)
def test_slices_of_one_site(form: str) -> None:
    """q, k, v: one input; k uses q's gate, v has its own; k lacks an adapter; widths differ."""
    every, rows = records(6)
    dtype = torch.bfloat16
    q, k, v = (
        make_case(ranks, every, rows, shape=(14,), d_in=64, d_out=out, x_dtype=dtype, dtypes=[dtype], seed=out)
        for ranks, out in (([8, 3, 16, 5, 8, 0], 48), ([8, 3, 0, 5, 8, 0], 16), ([8, 3, 16, 5, 8, 0], 24))
    )
    pages = [c.lora_A.numel() for c in (q, k, v)]
    grow = [torch.nn.functional.pad(c.lora_A, (0, max(pages) - len(c.lora_A)), value=255) for c in (q, k, v)]
    q, k, v = (replace(c, x=q.x, lora_A=a, lora_B_packed=torch.nn.functional.pad(
        c.lora_B_packed, (0, max(pages) // 64 * c.base.shape[-1] - len(c.lora_B_packed)), value=255))
        for c, a in zip((q, k, v), grow, strict=True))  # fmt: skip
    k = replace(k, gate=q.gate, gate_bias=q.gate_bias)
    cases = [q, k, v]
    outcome = run(cases, form, leaders=[0, 0, 2])
    for y, case in zip(outcome.y, cases, strict=True):
        assert_close_to_reference(y, reference(*case.args()), plain(case, dtype))
        assert equal(y, run(case, form).y[0])


@pytest.mark.parametrize("form", FORMS)
def test_strided_rows_and_a_batch_in_parts(form: str) -> None:
    case = make_case(ranks(5), *records(5), shape=(28,), d_in=64, d_out=24, x_dtype=torch.float16)
    whole = run(case, form).y[0]
    for gap in (1, 8):
        strided = replace(case, x=torch.nn.functional.pad(case.x, (0, gap))[:, :64],
                          base=torch.nn.functional.pad(case.base, (0, gap))[:, :24])  # fmt: skip
        out = run(strided, form).y[0]
        if form == "prefill" and gap == 1:  # rows in no whole pieces: dot products, other bits
            hold(case, run(strided, form))
        else:
            assert equal(out, whole)
    parts = [run(case, form, part=part).y[0] for part in ((0, 5), (5, 28))]
    assert equal(torch.cat(parts), whole)


@pytest.mark.parametrize("form", FORMS)
def test_ties_go_to_the_lowest_slots(form: str) -> None:
    case = make_case([4] * 6, [auto_record([1, 2, 4, 5], 6)], [0])
    gate = torch.zeros_like(case.gate)
    gate[2] = -0.0
    case = replace(case, gate=gate, gate_bias=torch.tensor([0.0, -0.0, 0.0, 0.0, 0.0, 0.0]))
    fixed = case.with_routes([fixed_record({1: 0.5, 2: 0.5}, 6)], [0])
    assert equal(run(case, form).y[0], run(fixed, form).y[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_chosen_changes_no_bit(form: str, bad: float) -> None:
    """Not even for tokens whose neighbours in the batch choose it."""
    chosen = fixed_record({2: 1.0}, 4)
    case = make_case([4, 8, 3, 16], [auto_record([0, 1, 3], 4), chosen], [0, 1, 0, 0], shape=(4, 3))
    hurt = replace(case, gate=case.gate.clone(), lora_A=case.lora_A.clone(), lora_B_packed=case.lora_B_packed.clone())
    hurt.gate[2] = bad
    for half in hurt.weights_of(2):
        half.fill_(bad)
    out, clean = run(hurt, form).y[0], run(case, form).y[0]
    others = [t for t in range(12) if not 3 <= t < 6]
    assert equal(out[others], clean[others])
    assert not out[3:6].isfinite().any()
    zero = hurt.with_routes([auto_record([0, 1, 3], 4), fixed_record({0: 1.0, 2: 0.0}, 4)], [0, 1, 0, 0])
    assert run(zero, form).y[0].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_logits_that_are_not_numbers(form: str) -> None:
    case = make_case([4, 8, 3, 16], [auto_record(range(4), 4)], [0], temperature=1e-3)
    gate = case.gate.clone()
    gate[0], gate[3] = torch.nan, 0.0
    gate[3, 0] = 1e38
    case = replace(case, gate=gate, x=case.x * 1e3)  # nan, finite, finite, and one of the infinities
    hold(case, run(case, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("record", [fixed_record({}, 3), auto_record([], 3), fixed_record({2: 1.0}, 3)])
def test_nothing_chosen_is_the_base_bit_for_bit(form: str, record: list[int]) -> None:
    case = make_case([4, 8, 0], [record], [0])
    base = case.base.clone()
    base[0, 0, 0], base[0, 0, 1] = -0.0, float("nan")
    assert equal(run(replace(case, base=base), form).y[0].reshape(base.shape), base)


@pytest.mark.parametrize("form", FORMS)
def test_more_adapters_than_the_lanes_of_a_warp(form: str) -> None:
    """Many slots and a top_k beyond a warp; most segments are empty."""
    slots = 150
    case = make_case([slot % 3 for slot in range(slots)], [auto_record(range(1, slots), slots)], [0], shape=(2,),
                     d_in=16, d_out=8, top_k=40)  # fmt: skip
    hold(case, run(case, form))


@pytest.mark.parametrize("form", FORMS)
def test_as_many_adapters_as_there_may_be(form: str) -> None:
    slots = 4098
    every = [auto_record(range(5, slots), slots), fixed_record({slot: 1.0 for slot in range(0, slots, 1000)}, slots)]
    case = make_case([1 + slot % 2 for slot in range(slots)], every, [0, 1], shape=(2,), d_in=8, d_out=8, top_k=3)
    outcome = run(case, form)
    torch.testing.assert_close(outcome.y[0].double(), reference(*case.args()), atol=1e-2, rtol=1e-5)
    slots_of_reference, weights = reference_slots(case)
    counts = outcome.counts[0].tolist()
    assert counts == [3, 5]
    for token, count in enumerate(counts):
        assert outcome.slots[0, token, :count].tolist() == slots_of_reference[token, :count].tolist()
        torch.testing.assert_close(outcome.weights[0, token, :count].double(), weights[token, :count])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [65, 256])
def test_large_ranks(form: str, rank: int) -> None:
    dtype = torch.bfloat16
    case = make_case([rank, 8, rank], [auto_record(range(3), 3)], [0], shape=(9,), d_in=72, d_out=40, x_dtype=dtype,
                     dtypes=[dtype])  # fmt: skip
    hold(case, run(case, form))


@pytest.mark.parametrize("form", FORMS)
def test_rows_beyond_four_gigabytes(form: str) -> None:
    """Of a pool that takes memory only where it is written; 32 bits would end at page 2,048."""
    d_in, pages = 1 << 17, 2200
    near = make_case([3], [auto_record([0], 1)], [0], shape=(2,), d_in=d_in, d_out=8, x_dtype=torch.bfloat16,
                     dtypes=[torch.bfloat16])  # fmt: skip
    far = replace(near, table=near.table.clone(), lora_A=torch.empty(pages * len(near.lora_A), dtype=torch.uint8),
                  lora_B_packed=torch.empty(pages * len(near.lora_B_packed), dtype=torch.uint8))  # fmt: skip
    far.table[0, 0] = pages - 1
    far.lora_A[-len(near.lora_A) :] = near.lora_A  # its one page
    far.lora_B_packed[-len(near.lora_B_packed) :] = near.lora_B_packed
    assert equal(run(far, form).y[0], run(near, form).y[0])


def options(rows: int, routes: int, top_k: int, temperature: float) -> Tensor:
    return torch.tensor([rows, routes, top_k, float_bits(temperature)], dtype=torch.int32)


@pytest.mark.parametrize("form", FORMS)
def test_options_on_the_device_stand_in_place_of_the_calls(form: str) -> None:
    every, rows = records(6)
    case = make_case(ranks(6), every, rows, shape=(7, 2), top_k=3, temperature=0.6)
    # Room for more rows and records than there are, another top_k and another temperature.
    given = replace(case.with_routes([*every, [9] * len(every[0])], [*rows, 99, -1]), top_k=1, temperature=5.0)
    outcome = run(given, form, options=options(len(rows), len(every), 3, 0.6))
    assert equal(outcome.y[0], run(case, form).y[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [2**30, -(2**30), 0])
def test_nonsense_among_options_touches_nothing_out_of_bounds(form: str, bad: int) -> None:
    case = make_case(ranks(4), [auto_record(range(4), 4), fixed_record({2: 0.5}, 4)], [0, 1, 0], shape=(3, 2))
    for place in range(3):
        given = options(3, 2, 2, 1.0)
        given[place] = bad
        run(case, form, options=given)


NONSENSE: dict[str, dict[str, Any]] = {
    "page beyond the pool": {"table": torch.tensor([10**6, 0, 0, 0])},
    "page negative": {"table": torch.tensor([-10, 0, 0, 0])},
    "rank huge": {"table": torch.tensor([0, 2**30, 0, 0])},
    "rank negative": {"table": torch.tensor([0, -100, 0, 0])},
    "unknown dtype": {"table": torch.tensor([0, 0, 7, 0])},
    "row_route beyond": {"row_route": torch.tensor([3])},
    "row_route negative": {"row_route": torch.tensor([-5])},
    "a slot beyond": {"routes": torch.tensor([0, 0, 9, 0, 0, 0, 0, 0, 0, 0])},
    "a count beyond": {"routes": torch.tensor([0, 100, 0, 0, 0, 0, 0, 0, 0, 0])},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_touches_nothing_out_of_bounds(form: str, what: str) -> None:
    every = [auto_record(range(4), 4), fixed_record({2: 0.5, 0: 2.0}, 4), fixed_record({}, 4)]
    good = make_case([4, 8, 0, 3], every, [0, 1, 2], shape=(3, 2))
    ((name, offset),) = NONSENSE[what].items()
    bad = replace(good, **{name: (getattr(good, name) + offset).int()})
    run(bad, form)  # the emulator raises where it does
