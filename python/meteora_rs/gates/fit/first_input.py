"""The first input of the model, which knows the token alone: whether it is left to the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meteora_rs.routes import BASE

from .held_out import HeldOut, Losses
from .priors import GAIN

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

    from .sweeps import Gates

LEFT = 1e4
"""The base's bias where all is left to it, its row being zero: above any logit."""


def leave_first_input(meteora: Meteora, gates: Gates, held: HeldOut, losses: Losses) -> tuple[Gates, Losses, bool]:
    """Gates that leave the first input to the base, if that costs the held-out texts nothing; the losses; whether.

    What the first linears read is the token's embedding, before any other token was looked at. No gate can tell there
    whose text it is; it would give each word to the adapter in whose texts it is frequent, whoever asks. `gates` are
    in force at the entrance, with `losses`; at the end those that are returned. Nothing changes without a class for
    the base, and where losses rise by more than `GAIN`.
    """
    if BASE not in gates:
        return gates, losses, False
    first = {site.path: site.in_features for site in meteora.groups[0].sites}
    left = {path: (torch.zeros(width), LEFT) for path, width in first.items()}
    base = {**gates[BASE], **left}
    held.trying("the first input to the base")
    meteora.set_gates({BASE: base})
    now = held.routed()
    if held.mean(now) > held.mean(losses) + GAIN:
        meteora.set_gates({BASE: gates[BASE]})
        return gates, losses, False
    return {**gates, BASE: base}, now, True


def is_left(row: Tensor, bias: Tensor) -> bool:
    """Whether the base's gate here leaves everything to it."""
    return not row.any() and float(bias) >= LEFT
