"""The float64 reference against a computation of one token at a time that shares no code with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from meteora_rs.ops.layout import ROUTE_FIXED, TableEntry, auto_record, bits_float, fixed_record, pages
from meteora_rs.ops.reference import gated_lora, select
from op_case import OpCase, make_case

SLOTS = 5
RANKS = (4, 8, 0, 3, 16)
FIXED = fixed_record({3: 0.7, 0: 0.3}, SLOTS)
BASE = fixed_record({}, SLOTS)
ALL = auto_record(range(SLOTS), SLOTS)
SOME = auto_record([1, 2, 4], SLOTS)
NONE = auto_record([], SLOTS)
RECORDS = [FIXED, BASE, ALL, SOME, NONE]


def one_token(case: OpCase, t: int, total: int) -> list[float]:
    """The output for token t, in plain Python floats."""
    x = case.x.reshape(-1, case.x.shape[-1])[t].double().tolist()
    y = case.base.reshape(-1, case.base.shape[-1])[t].double().tolist()
    record = case.routes[case.row_route[t * len(case.row_route) // total]].tolist()
    entries = case.entries()
    mix: list[tuple[int, float]] = []
    if record[0] == ROUTE_FIXED:
        mix = [(record[2 + 2 * i], bits_float(record[3 + 2 * i])) for i in range(record[1])]
    else:
        scored = []
        for slot, entry in enumerate(entries):
            if not record[2 + slot // 32] >> slot % 32 & 1:
                continue
            dot = math.fsum(w * v for w, v in zip(case.gate[slot].tolist(), x, strict=True))
            scored.append(((abs(dot) if entry.sign_free else dot) + case.gate_bias[slot].item(), slot))
        scored.sort(key=lambda pair: (-pair[0], pair[1]))
        best = scored[: case.top_k]
        powers = [math.exp((g - best[0][0]) / case.temperature) for g, _ in best]
        mix = sorted((slot, p / sum(powers)) for (_, slot), p in zip(best, powers, strict=True))
    for slot, weight in mix:
        a, b = (part.double().tolist() for part in case.weights_of(slot))
        for row_a, row_b in zip(a, b, strict=True):
            u = math.fsum(p * q for p, q in zip(row_a, x, strict=True))
            for o, value in enumerate(row_b):
                y[o] += weight * entries[slot].scaling * value * u
    return y


@pytest.mark.parametrize("top_k", [1, 2, 3, 8])
@pytest.mark.parametrize("shape", [(5, 3), (10, 2), (1, 15), (15,)])
def test_is_what_each_token_gives_alone(top_k: int, shape: tuple[int, ...]) -> None:
    rows = [0, 1, 2, 3, 4]
    case = make_case(RANKS, RECORDS, rows, shape=shape, sign_free=[1], top_k=top_k, temperature=0.7)
    total = math.prod(shape)
    expected = torch.tensor([one_token(case, t, total) for t in range(total)], dtype=torch.float64)
    actual = gated_lora(*case.args())
    assert actual.dtype == torch.float64
    assert torch.allclose(actual.reshape(total, -1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("record", [BASE, NONE, fixed_record({2: 1.0}, SLOTS), auto_record([2], SLOTS)])
def test_no_adapter_leaves_the_base_alone(record: list[int]) -> None:
    case = make_case(RANKS, [record], [0, 0])
    assert torch.equal(gated_lora(*case.args()), case.base.double())


def test_no_tokens_and_no_rows() -> None:
    case = make_case(RANKS, RECORDS, [], shape=(0, 3))
    assert gated_lora(*case.args()).shape == (0, 3, 17)


def choose(scores: list[float], top_k: int, record: list[int] = ALL) -> tuple[list[int], list[float]]:
    routes = torch.tensor([record], dtype=torch.int32)
    g = torch.tensor([scores], dtype=torch.float64)
    slots, weights = select(g, torch.tensor([0]), routes, top_k, 1.0)
    return slots[0].tolist(), weights[0].tolist()


def test_ties_go_to_the_lowest_slot() -> None:
    assert choose([1.0, 2.0, 2.0, 2.0, 1.0], 2) == ([1, 2], [0.5, 0.5])
    assert choose([1.0, 2.0, 2.0, 2.0, 2.0], 2, SOME) == ([1, 2], [0.5, 0.5])


def test_slots_are_ascending_whatever_their_scores() -> None:
    slots, weights = choose([0.0, 1.0, 5.0, 2.0, 6.0], 3)
    assert slots == [2, 3, 4]
    assert weights[2] > weights[0] > weights[1]


def test_nan_and_minus_infinity_are_never_chosen() -> None:
    nan, inf = math.nan, math.inf
    assert choose([nan, -inf, nan, -inf, nan], 2) == ([-1, -1], [0.0, 0.0])
    assert choose([nan, 3.0, -inf, -1e39, nan], 2) == ([1, -1], [1.0, 0.0])


def test_infinity_counts_as_the_largest_float() -> None:
    inf = math.inf
    assert choose([0.0, inf, 1.0, inf, inf], 2) == ([1, 3], [0.5, 0.5])
    assert choose([0.0, inf, 1e39, 0.0, 0.0], 2) == ([1, 2], [0.5, 0.5])
    assert choose([3.0, inf, 1.0, 0.0, 0.0], 2) == ([0, 1], [0.0, 1.0])


def test_fewer_candidates_than_top_k() -> None:
    slots, weights = choose([0.0] * 5, 8, SOME)
    assert slots[:3] == [1, 2, 4]
    assert set(slots[3:]) <= {-1}
    assert weights[:3] == pytest.approx([1 / 3] * 3)


def test_a_fixed_route_may_have_more_than_top_k() -> None:
    record = fixed_record({4: 0.5, 0: 0.25, 1: 0.125}, SLOTS)
    assert choose([0.0] * 5, 1, record) == ([0, 1, 4], [0.25, 0.125, 0.5])


def test_nan_in_an_adapter_that_is_not_chosen_changes_no_bit() -> None:
    case = make_case(RANKS, [SOME, fixed_record({0: 0.5}, SLOTS)], [0, 1, 0], shape=(3, 2), top_k=2)
    case.gate_bias[4] = -100.0
    before = gated_lora(*case.args())
    for slot in (3, 4):
        for part in case.weights_of(slot):
            part.fill_(math.nan)
    assert torch.equal(gated_lora(*case.args()), before)
    case.gate[[3, 4]] = math.nan
    assert torch.equal(gated_lora(*case.args()), before)


def test_more_than_32_slots() -> None:
    slots = 40
    case = make_case([1] * slots, [auto_record([31, 32, 39], slots)], [0], top_k=3)
    chosen, weights = select(torch.zeros(10, slots).double(), *case.args()[7:])
    assert chosen.tolist() == [[31, 32, 39]] * 10
    assert torch.allclose(weights.sum(1), torch.ones(10).double())


def test_entries_survive_encoding() -> None:
    entry = TableEntry(3, 12, torch.bfloat16, 0.3, sign_free=True)
    decoded = TableEntry.decode(entry.encode())
    assert decoded == replace(entry, scaling=torch.tensor(0.3).item())
    assert [pages(9, torch.float32), pages(8, torch.float16), pages(0, torch.bfloat16)] == [4, 1, 0]
