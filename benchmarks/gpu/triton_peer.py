"""Shrink and expand as one writes them in Triton: a program for each (token, place), and for each (token, columns).

Its compiler reads annotations as code, and knows no types but its own: the kernels' arguments have none.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

INPUTS = 256
OUTPUTS = 256


@triton.jit  # type: ignore[untyped-decorator]
def shrink(x, a, slots, u, d_in, rank, places, RANK: tl.constexpr, INPUTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """u[t, k, :] = A[slots[t, k]] x[t]"""
    token, place = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + token * places + place)
    rows = tl.arange(0, RANK)
    sums = tl.zeros((RANK,), dtype=tl.float32)
    for first in range(0, d_in, INPUTS):
        columns = first + tl.arange(0, INPUTS)
        given = tl.load(x + token * d_in + columns, mask=columns < d_in, other=0.0).to(tl.float32)
        exists = (rows[:, None] < rank) & (columns[None, :] < d_in)
        weights = tl.load(a + (slot * rank + rows[:, None]) * d_in + columns[None, :], mask=exists, other=0.0)
        sums += tl.sum(weights.to(tl.float32) * given[None, :], axis=1)
    tl.store(u + (token * places + place) * rank + rows, sums, mask=rows < rank)


@triton.jit  # type: ignore[untyped-decorator]
def expand(y, b, slots, weights, u, d_out, rank, places, RANK: tl.constexpr, OUTPUTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """y[t, :] += sum over k of weights[t, k] B[slots[t, k]] u[t, k, :]"""
    token = tl.program_id(0)
    columns = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    rows = tl.arange(0, RANK)
    sums = tl.zeros((OUTPUTS,), dtype=tl.float32)
    for place in range(places):
        slot = tl.load(slots + token * places + place)
        weight = tl.load(weights + token * places + place)
        inner = tl.load(u + (token * places + place) * rank + rows, mask=rows < rank, other=0.0) * weight
        exists = (rows[:, None] < rank) & (columns[None, :] < d_out)
        part = tl.load(b + (slot * rank + rows[:, None]) * d_out + columns[None, :], mask=exists, other=0.0)
        sums += tl.sum(part.to(tl.float32) * inner[:, None], axis=0)
    at = y + token * d_out + columns
    before = tl.load(at, mask=columns < d_out, other=0.0)
    tl.store(at, (before.to(tl.float32) + sums).to(before.dtype), mask=columns < d_out)


def add_products(y: Tensor, x: Tensor, a: Tensor, b: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """y += the chosen adapters' products; x `[T, in]`, a `[n, r, in]`, b `[n, r, out]`, slots and weights `[T, k]`."""
    tokens, places = slots.shape
    rank, d_in, d_out = a.shape[1], a.shape[2], b.shape[2]
    u = torch.empty(tokens, places, rank, dtype=torch.float32, device=x.device)
    padded = triton.next_power_of_2(rank)
    shrink[(tokens, places)](x, a, slots, u, d_in, rank, places, RANK=padded, INPUTS=INPUTS)
    columns = triton.cdiv(d_out, OUTPUTS)
    expand[(tokens, columns)](y, b, slots, weights, u, d_out, rank, places, RANK=padded, OUTPUTS=OUTPUTS)
    return y
