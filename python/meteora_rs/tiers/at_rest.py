"""An adapter at rest, as it was at one moment: for a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.handle.record import AdapterRecord

if TYPE_CHECKING:
    from meteora_rs.tiers.tiers import Registration, Tiers


@dataclass(frozen=True)
class AtRest:
    """A registered adapter that is not on the device.

    `rows`: for each site its gate row `[in]` and bias, where they do not follow from the weights.
    """

    record: AdapterRecord
    rows: list[tuple[Tensor, float]] | None
    _registration: Registration
    _copy: _native.HostCopy | None
    """Held where it could not be read again; others may leave the host meanwhile, for those who need room there."""

    def copy(self, tiers: Tiers) -> _native.HostCopy:
        """Its copy in the host's memory, read again if need be.

        Raises:
            AdapterFormatError, CapacityError, OSError: as `Tiers.fetch`.
        """
        return self._copy or tiers.copy_of(self._registration)


def at_rest(record: AdapterRecord, registration: Registration, copy: _native.HostCopy | None, given: bool) -> AtRest:
    """What is known of it now; `given`: its gate rows do not follow from the weights."""
    rows = None
    if given:
        assert copy is not None
        rows = [(torch.frombuffer(row, dtype=torch.float32), bias) for row, bias in copy.gates()]
    return AtRest(record, rows, registration, copy if given or registration.folder is None else None)
