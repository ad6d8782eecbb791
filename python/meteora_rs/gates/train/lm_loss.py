"""The language-model term of the training objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from .data import IGNORED


def lm_loss(model: Any, inputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """The mean cross-entropy of the targets that are not `IGNORED`, in nats, under the routes in force.

    inputs: what the model takes, rows padded on the left; targets `[rows, n]` int64, the last n tokens of each row.
    """
    logits = model(**inputs, use_cache=False, logits_to_keep=targets.shape[1] + 1).logits[:, :-1].float()
    return cross_entropy(logits.transpose(1, 2), targets.to(logits.device), ignore_index=IGNORED)
