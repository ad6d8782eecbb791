"""An adapter at rest, as it was at one moment: for a bundle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.attached.record import AdapterRecord
from meteora_rs.tiers.registration import Registration


@dataclass(frozen=True)
class AtRest:
    """A registered adapter that is not on the device.

    `rows`: for each site its gate row `[in]` and bias, where they do not follow from the weights.
    """

    record: AdapterRecord
    rows: list[tuple[Tensor, float]] | None
    registration: Registration
    held: _native.HostCopy | None
    """Its copy where it could not be read again; others may leave the host meanwhile, for those who need room there."""


def at_rest(record: AdapterRecord, registration: Registration, copy: _native.HostCopy | None, given: bool) -> AtRest:
    """What is known of it now; `given`: its gate rows do not follow from the weights."""
    rows = None
    if given:
        assert copy is not None
        rows = [(torch.frombuffer(row, dtype=torch.float32), bias) for row, bias in copy.gates()]
    return AtRest(record, rows, registration, copy if given or registration.folder is None else None)
