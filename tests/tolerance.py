"""The one rule by which a result counts as right."""

from __future__ import annotations

import torch
from torch import Tensor

# How much farther from float64 than plain torch an implementation may be.
FACTOR = 2.0
# Rounding a result of 1 once more or less, where torch happens to be exact.
FLOOR_IN_ULPS = 2.0


def assert_close_to_reference(actual: Tensor, reference64: Tensor, same_dtype_torch: Tensor) -> None:
    """Holds `actual` to the float64 reference: its largest error is at most twice that of plain torch.

    max |actual - reference| ≤ 2 · max |torch - reference| + 2 ulp of the largest |reference|

    The three have one shape; `same_dtype_torch` is the same op in `actual`'s dtype, written in plain torch.
    Raises AssertionError; non-finite values must stand at the same places in `actual` and the reference.
    """
    assert actual.shape == reference64.shape == same_dtype_torch.shape
    assert actual.dtype == same_dtype_torch.dtype
    if actual.numel() == 0:
        return
    rounded = reference64.to(actual.dtype)
    finite = rounded.isfinite()
    assert torch.equal(actual.isfinite(), finite), "finite and non-finite values stand at different places"
    reference = torch.where(finite, reference64, 0.0)
    error = (torch.where(finite, actual, 0.0).double() - reference).abs().max().item()
    of_torch = (torch.where(finite, same_dtype_torch, 0.0).nan_to_num().double() - reference).abs().max().item()
    floor = FLOOR_IN_ULPS * torch.finfo(actual.dtype).eps * reference.abs().max().item()
    allowed = FACTOR * of_torch + floor
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g} (plain torch: {of_torch:.3g})"
