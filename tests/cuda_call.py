"""One call of the CUDA kernels on the emulator, from the arguments of `gated_lora`; mirrors cuda/abi.h."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from ctypes import Structure, byref, c_char_p, c_float, c_int16, c_int32, c_int64, c_uint, c_uint64, c_void_p
from dataclasses import dataclass

import torch
from cuda_emulator.build import build
from meteora_rs.ops.layout import CODE_OF_DTYPE
from op_case import OpCase
from torch import Tensor

MAX_SLICES = 4
FORMS = ("gather", "dense", "prefill")


class Slice(Structure):
    _fields_ = [("gate", c_void_p), ("gate_bias", c_void_p), ("lora_a", c_void_p), ("lora_b_packed", c_void_p),
                ("table", c_void_p), ("y", c_void_p), ("y_stride", c_int64), ("out_features", c_int32),
                ("leader", c_int32)]  # fmt: skip


WORKSPACE = ("logits", "chosen_count", "chosen_slots", "chosen_weights", "u", "slot_counts", "slot_cursors",
             "segment_indptr", "pair_tokens", "token_order")  # fmt: skip


class Call(Structure):
    _fields_ = [("x", c_void_p), ("x_stride", c_int64), ("row_route", c_void_p), ("routes", c_void_p),
                ("options", c_void_p),
                *[(name, c_void_p) for name in WORKSPACE], ("first_token", c_int64), ("total_tokens", c_int64),
                *[(name, c_int32) for name in ("tokens", "rows", "n_routes", "slots", "in_features", "places", "top_k",
                                               "pages", "u_stride", "n_slices")],
                ("temperature", c_float), ("x_dtype", c_int16), ("y_dtype", c_int16),
                ("slices", Slice * MAX_SLICES)]  # fmt: skip


class LaunchConfig(Structure):
    _fields_ = [("grid", c_uint * 3), ("block", c_uint * 3), ("shared_bytes", c_uint), ("stream", c_void_p),
                ("attributes", c_void_p), ("attribute_count", c_uint)]  # fmt: skip


@dataclass
class Outcome:
    """What a call leaves: y of each slice, and each leader's choice."""

    y: list[Tensor]
    counts: Tensor  # [slices, T]
    slots: Tensor  # [slices, T, places]
    weights: Tensor


class Fault(Exception):
    """What the emulator found."""


@functools.cache
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build()))
    lib.meteora_emulator_last_fault.restype = c_char_p
    lib.meteora_emulator_seed.argtypes = [c_uint64]
    return lib


def launch(
    name: str, call: Call, grid: Sequence[int], block: int = 128, shared_bytes: int = 0, *, raise_limit: bool = True
) -> None:
    """One launch; Fault where the emulator finds one, ValueError where the driver refuses the launch."""
    lib = library()
    function = c_void_p()
    assert lib.cuModuleGetFunction(byref(function), None, name.encode()) == 0, name
    if raise_limit:
        assert lib.cuFuncSetAttribute(function, 8, max(shared_bytes, 48 << 10)) == 0
    config = LaunchConfig((c_uint * 3)(*grid), (c_uint * 3)(block, 1, 1), shared_bytes, None, None, 0)
    parameters = (c_void_p * 1)(ctypes.cast(ctypes.pointer(call), c_void_p))
    context = c_void_p()
    assert lib.cuDevicePrimaryCtxRetain(byref(context), 0) == lib.cuCtxPushCurrent_v2(context) == 0
    status = lib.cuLaunchKernelEx(byref(config), function, parameters, None)
    assert lib.cuCtxPopCurrent_v2(byref(context)) == 0
    if status == 719:
        raise Fault(lib.meteora_emulator_last_fault().decode())
    if status:
        raise ValueError(f"{name}: CUresult {status}")


def run(
    case: OpCase | Sequence[OpCase],
    form: str,
    *,
    leaders: Sequence[int] | None = None,
    places: int | None = None,
    blocks: int = 3,
    groups: int = 1,
    seed: int = 0,
    part: tuple[int, int] | None = None,
    options: Tensor | None = None,
) -> Outcome:
    """The call in one of FORMS; several cases are the slices of one site, whose x is the first one's.

    leaders: for each slice, the one whose gate it uses; itself by default. places: the most adapters of a token;
    all slots by default. blocks: how many share the rows of the shrink. groups: how many of 128 threads share a row in
    the gather form. seed: an order of threads and blocks.
    part: the tokens (first, end) of x that the call computes. options: as in cuda/abi.h.
    """
    cases = [case] if isinstance(case, OpCase) else list(case)
    first = cases[0]
    x = first.x if first.x.dim() == 2 else first.x.reshape(-1, first.x.shape[-1])
    bases = [c.base if c.base.dim() == 2 else c.base.reshape(-1, c.base.shape[-1]) for c in cases]
    begin, end = part or (0, len(x))
    total, tokens, slots, in_features = len(x), end - begin, len(first.gate), x.shape[1]
    pages = first.lora_A.numel() // (16 * in_features)
    places = slots if places is None else places
    n = len(cases)
    ys = [torch.empty(base.shape[0], base.stride(0), dtype=base.dtype)[:, : base.shape[1]] for base in bases]
    for y, base in zip(ys, bases, strict=True):
        y.copy_(base)
    i32, f32 = torch.int32, torch.float32
    sizes = {
        "logits": ((n, tokens, slots), f32), "chosen_count": ((n, tokens), i32),
        "chosen_slots": ((n, tokens, places), i32), "chosen_weights": ((n, tokens, places), f32),
        "u": ((n, tokens, 8 * pages), f32), "slot_counts": ((n, 2, slots), i32), "slot_cursors": ((n, 2, slots), i32),
        "segment_indptr": ((n, slots + 2), i32), "pair_tokens": ((n, tokens * places), i32),
        "token_order": ((n, tokens), i32),
    }  # fmt: skip
    space = {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes.items()}
    call = Call(x=x[begin:].data_ptr(), x_stride=x.stride(0), row_route=first.row_route.data_ptr(),
                routes=first.routes.data_ptr(), first_token=begin, total_tokens=total, tokens=tokens,
                rows=len(first.row_route), n_routes=len(first.routes), slots=slots, in_features=in_features,
                places=places, top_k=min(first.top_k, slots), pages=pages, u_stride=8 * pages, n_slices=n,
                temperature=first.temperature,
                x_dtype=CODE_OF_DTYPE[x.dtype], y_dtype=CODE_OF_DTYPE[bases[0].dtype])  # fmt: skip
    call.options = None if options is None else options.data_ptr()
    for name in WORKSPACE[: 5 if form != "prefill" else None]:
        setattr(call, name, space[name].data_ptr())
    for index, (c, y) in enumerate(zip(cases, ys, strict=True)):
        call.slices[index] = Slice(c.gate.data_ptr(), c.gate_bias.data_ptr(), c.lora_A.data_ptr(),
                                   c.lora_B_packed.data_ptr(), c.table.data_ptr(), y[begin:].data_ptr(), y.stride(0),
                                   y.shape[1], index if leaders is None else leaders[index])  # fmt: skip
    library().meteora_emulator_seed(seed)
    if tokens:
        for launch_arguments in launches(form, call, blocks, groups):
            launch(*launch_arguments)
    return Outcome([y[begin:end] for y in ys], space["chosen_count"], space["chosen_slots"], space["chosen_weights"])


def launches(form: str, call: Call, blocks: int, groups: int) -> list[tuple[str, Call, tuple[int, int, int], int, int]]:
    """A form's launches as cuda/abi.h lists them."""
    t, n, slots = call.tokens, call.n_slices, call.slots
    widest = max(call.slices[i].out_features for i in range(n))
    choose = 4 + 4 * slots + 8 * call.places

    def up(size: int, by: int) -> int:
        return -(-size // by)

    if form == "gather":
        return [("decode_logits", call, (slots, up(t, 4), n), 128 * groups, 0),
                ("decode_shrink", call, (blocks, t, n), 128 * groups, choose),
                ("decode_expand", call, (up(widest, 256), t, n), 128, 0)]  # fmt: skip
    if form == "dense":
        return [("decode_dense", call, (4 * slots, up(t, 4), n), 128, 0),
                ("decode_choose_expand", call, (up(widest, 256), t, n), 128, choose)]  # fmt: skip
    return [("prefill_logits", call, (up(slots, 32), up(t, 16), n), 256, 0),
            ("prefill_choose", call, (t, 1, n), 32, choose),
            ("prefill_scatter", call, (up(t, 128), 1, n), 128, 8 * slots + 1024),
            ("prefill_shrink", call, (blocks, 1, n), 128, 49152),
            ("prefill_expand", call, (up(widest, 32), up(t, 64), n), 128, 0)]  # fmt: skip
