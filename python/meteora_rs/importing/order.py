"""In which order a checkpoint holds its adapters, established from their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from meteora_rs.errors import AdapterFormatError

from .layout import LORA_A, LORA_B, Linear
from .tensors import Tensors

Adapter = Mapping[str, tuple[Tensor, Tensor]]
"""An adapter's (lora_A [r, in], lora_B [out, r]) by the linear's path; linears that it lacks are left out."""


def adapter_order(tensors: Tensors, linears: Sequence[Linear], adapters: Mapping[str, Adapter]) -> list[str]:
    """The adapters' names in the checkpoint's order.

    The first adapter is the one whose lora_A are the first rows, and whose lora_B the first columns, of those of
    every linear; the next one follows after its rank, which may differ by adapter and by linear.

    Raises:
        AdapterFormatError: no adapter, or more than one, fits the next rows; rows or adapters are left over.
    """
    fused = {
        linear.path: (tensors.read(linear.tensor(LORA_A)), tensors.read(linear.tensor(LORA_B)))
        for linear in linears
        if linear.rows
    }
    for name, adapter in adapters.items():
        if stray := sorted(set(adapter) - set(fused)):
            raise AdapterFormatError(
                f"adapter {name!r} adapts {stray[0]}, which the checkpoint does not (file: {tensors.path})"
            )
    done = dict.fromkeys(fused, 0)
    order: list[str] = []
    while len(order) < len(adapters):
        waiting = {name: adapter for name, adapter in adapters.items() if name not in order}
        fitting = [name for name, adapter in waiting.items() if _mismatch(fused, done, adapter) is None]
        if len(fitting) > 1:
            raise AdapterFormatError(
                f"adapters {fitting[0]!r} and {fitting[1]!r} both fit place {len(order)} of the checkpoint: their "
                f"weights do not tell them apart (file: {tensors.path})"
            )
        if not fitting:
            raise AdapterFormatError(_explain(fused, done, waiting, len(order), tensors))
        order += fitting
        for path, (lora_a, _) in adapters[fitting[0]].items():
            done[path] += len(lora_a)
    for linear in linears:
        if linear.rows and done[linear.path] != linear.rows:
            raise AdapterFormatError(
                f"{tensors.place(linear.tensor(LORA_A))}: rows {done[linear.path]} to {linear.rows} belong to none of "
                f"the adapters given ({', '.join(order)}); give every adapter of the checkpoint"
            )
    return order


Fused = Mapping[str, tuple[Tensor, Tensor]]


def _mismatch(fused: Fused, done: Mapping[str, int], adapter: Adapter) -> tuple[str, str] | None:
    """The first linear and kind of tensor that does not fit the checkpoint's next rows, or `None`."""
    for path in fused:
        if path not in adapter:
            continue
        lora_a, lora_b = adapter[path]
        rows = slice(done[path], done[path] + len(lora_a))
        if not _same(fused[path][0][rows], lora_a):
            return path, LORA_A
        if not _same(fused[path][1][:, rows], lora_b):
            return path, LORA_B
    return None


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal in the coarser of their types: saving in another one rounds."""
    if one.shape != other.shape:
        return False
    return torch.equal(one.to(other.dtype), other) or torch.equal(one, other.to(one.dtype))


def _explain(
    fused: Fused, done: Mapping[str, int], waiting: Mapping[str, Adapter], place: int, tensors: Tensors
) -> str:
    text = f"no adapter fits place {place} of the checkpoint (file: {tensors.path})"
    for name, adapter in waiting.items():
        mismatch = _mismatch(fused, done, adapter)
        assert mismatch is not None
        path, kind = mismatch
        end = done[path] + len(adapter[path][0])
        text += f"; {name!r} differs in {path}.{kind}, {'rows' if kind == LORA_A else 'columns'} {done[path]} to {end}"
    return text
