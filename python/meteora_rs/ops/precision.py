"""Sums in the dtypes that the code names, whatever torch.autocast is set to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def without_autocast(backward: Callable[Rest, Result]) -> Callable[Rest, Result]:
    """`backward`, as if it were called outside of torch.autocast: who calls backward() inside a block has it on."""

    @wraps(backward)
    def plain(*args: Rest.args, **kwargs: Rest.kwargs) -> Result:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        with torch.autocast(device, enabled=False):
            return backward(*args, **kwargs)

    return plain
