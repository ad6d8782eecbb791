"""Whatever lies outside a row's mask changes no bit of that row: other adapters, their gates, other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import meteora_rs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, Route, _native
from meteora_rs.ops.layout import auto_record, fixed_record
from op_case import OpCase, make_case
from tiny import VOCABULARY, adapter, equal, gate_rows, prompt, tiny_model
from torch import Tensor

SPECIAL = (float("nan"), float("inf"), float("-inf"), 3e38, -3e38, 1e-45, 0.0)
RANKS = (0, 1, 3, 8, 17)
ROWS = 3


def wild(shape: Sequence[int], random: torch.Generator, special: float = 0.3) -> Tensor:
    """Normal values, a part of them NaN, infinite, huge or denormal."""
    values = torch.randn(*shape, generator=random) * 4
    drawn = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), tuple(shape), generator=random)]
    return torch.where(torch.rand(*shape, generator=random) < special, drawn, values)


def random_bytes(like: Tensor, random: torch.Generator) -> Tensor:
    """Any bytes: NaN and infinity of every element type among them."""
    return torch.randint(256, like.shape, generator=random, dtype=torch.uint8)


@dataclass(frozen=True)
class Drawn:
    """A call of the op, one row of it, and the route and mask of that row."""

    case: OpCase
    row: int
    record: list[int]
    mask: set[int]
    seed: int

    def changed(self) -> OpCase:
        """The same for the row and the slots of its mask; all else drawn anew."""
        case, random = self.case, torch.Generator().manual_seed(self.seed)
        slots = len(case.gate)
        outside = torch.tensor([slot not in self.mask for slot in range(slots)])
        table = [
            entry if slot in self.mask else replace(entry, scaling=float("nan"), sign_free=not entry.sign_free)
            for slot, entry in enumerate(case.entries())
        ]
        changed = replace(
            case,
            gate=torch.where(outside[:, None], wild(case.gate.shape, random), case.gate),
            gate_bias=torch.where(outside, wild(case.gate_bias.shape, random), case.gate_bias),
            lora_A=random_bytes(case.lora_A, random),
            lora_B_packed=random_bytes(case.lora_B_packed, random),
            table=torch.tensor([entry.encode() for entry in table], dtype=torch.int32),
            x=wild(case.x.shape, random).to(case.x.dtype),
            base=wild(case.base.shape, random).to(case.base.dtype),
        )
        for slot in self.mask:
            for mine, theirs in zip(changed.weights_of(slot), case.weights_of(slot), strict=True):
                mine.copy_(theirs)
        changed.x[self.row], changed.base[self.row] = case.x[self.row], case.base[self.row]
        others = [auto_record(range(0, slots, 2), slots), fixed_record({slots - 1: float("inf")}, slots), self.record]
        routes = torch.randint(3, (ROWS,), generator=random).tolist()
        routes[self.row] = 2
        return changed.with_routes(others, routes)


@st.composite
def calls(draw: st.DrawFn) -> Drawn:
    slots = draw(st.sampled_from([1, 2, 3, 5, 9, 33, 70]))
    mask = set(draw(st.lists(st.integers(0, slots - 1), max_size=slots, unique=True)))
    if slots >= 33 and draw(st.booleans()):
        mask = set(range(slots)) - mask  # many candidates
    gated = draw(st.booleans())
    if not gated:
        mask = set(sorted(mask)[:4])
    record = auto_record(mask, slots) if gated else fixed_record({slot: 0.25 + slot for slot in mask}, slots)
    ranks = draw(st.lists(st.sampled_from(RANKS), min_size=min(slots, 7), max_size=min(slots, 7)))
    seed = draw(st.integers(0, 2**31 - 1))
    case = make_case(
        [ranks[slot % len(ranks)] for slot in range(slots)],
        [record],
        [0] * ROWS,
        shape=(ROWS, draw(st.sampled_from([1, 2, 5, 9]))),
        d_in=draw(st.sampled_from([1, 24, 33])),
        sign_free=range(0, slots, 3),
        x_dtype=draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
        top_k=draw(st.integers(1, 4)),
        temperature=draw(st.sampled_from([0.5, 1.0, 20.0])),
        seed=seed % 1000,
    )
    if draw(st.booleans()):  # the row's own gates may be anything as well
        random = torch.Generator().manual_seed(seed + 1)
        case.gate.copy_(wild(case.gate.shape, random, 0.02))
        case.gate_bias.copy_(wild(case.gate_bias.shape, random))
    return Drawn(case, draw(st.integers(0, ROWS - 1)), record, mask, seed)


@settings(max_examples=400, deadline=None)
@given(calls())
def test_the_op(drawn: Drawn) -> None:
    one = torch.ops.meteora_rs.gated_lora(*drawn.case.args())
    other = torch.ops.meteora_rs.gated_lora(*drawn.changed().args())
    assert equal(one[drawn.row], other[drawn.row])


NAMES = ("math", "law", "sql", *(f"more-{at}" for at in range(30)))
FEW = NAMES[:4]
MODEL = tiny_model()
NAMED: st.SearchStrategy[Route] = st.sampled_from(FEW)
LISTED: st.SearchStrategy[Route] = st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(Auto)
MIXED: st.SearchStrategy[Route] = st.dictionaries(
    st.sampled_from(FEW), st.floats(0, 3, width=32), min_size=1, max_size=3
).map(Mix)
BASE: st.SearchStrategy[Route] = st.just("__base__")


def attached() -> Meteora:
    """`MODEL` with thirty-three adapters: enough for the int8 screen."""
    meteora = meteora_rs.attach(MODEL, MeteoraConfig(max_adapters=40, pool_rank=8 * 40))
    for seed, name in enumerate(NAMES):
        gate = gate_rows(meteora, seed, equal=seed % 2 == 0)
        meteora.load_adapter(adapter(MODEL, 1 + seed % 5, seed=seed), name, gate=gate if seed % 3 else "arrow")
    return meteora


def allowed(route: Route) -> set[str]:
    """The names that a route may use."""
    if isinstance(route, Auto):
        return set(NAMES if route.only is None else route.only)
    return set(route.weights) if isinstance(route, Mix) else {route} - {"__base__"}


def spoil(meteora: Meteora, kept: set[str], random: torch.Generator) -> None:
    """Write anything over the gates and the weights of all but `kept`, and over slots that nobody has."""
    slots = {record.slot for record in meteora.adapters() if record.name in kept}
    for site in meteora.sites:
        inside = [(site.table[slot].tolist(), slot) for slot in slots]
        pools = [(site.lora_A, site.in_features), (site.lora_B_packed, site.out_features)]
        before = [pool.clone() for pool, _ in pools]
        for pool, _ in pools:
            pool.copy_(random_bytes(pool, random))
        for (page_start, rank, _, _), _slot in inside:
            for (pool, width), old in zip(pools, before, strict=True):
                start = page_start * _native.PAGE_BYTES_PER_COLUMN * width
                rows = slice(start, start + rank * width * 4)
                pool[rows] = old[rows]
        for slot in set(range(len(site.gate))) - slots:
            row, bias = wild((site.in_features,), random), wild((1,), random)
            _native.write_gates([site.kernel], slot, [(row.data_ptr(), float(bias), bool(slot % 2))])


@settings(max_examples=25, deadline=None)
@given(
    st.one_of(NAMED, LISTED, MIXED, BASE),
    st.lists(st.one_of(NAMED, LISTED, MIXED, BASE, st.just(Auto())), min_size=2, max_size=2),
    st.sampled_from([1, 2, 7]),
    st.integers(0, 2**31 - 1),
)
def test_a_model(route: Route, others: list[Route], length: int, seed: int) -> None:
    ids = prompt(ROWS, length, seed % 100)
    meteora = attached()
    try:
        with torch.inference_mode():
            with meteora.routing([route, *["__base__"] * 2]):
                before = MODEL(ids).logits[0]
            random = torch.Generator().manual_seed(seed)
            spoil(meteora, allowed(route), random)
            ids[1:] = torch.randint(VOCABULARY, ids[1:].shape, generator=random)
            with meteora.routing([route, *others]):
                after = MODEL(ids).logits[0]
        assert equal(before, after)
    finally:
        meteora.detach()
