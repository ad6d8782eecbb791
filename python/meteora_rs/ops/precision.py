"""Sums in the dtypes that the code names, whatever torch.autocast is set to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def without_autocast(work: Callable[Rest, Result]) -> Callable[Rest, Result]:
    """`work`, as if it were called outside of torch.autocast, on the device of the first tensor that it is given.

    A backward pass needs it as well: who calls backward() inside a block has it on.
    """

    @wraps(work)
    def plain(*args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return work(*args, **kwargs)

    return plain
