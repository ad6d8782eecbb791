"""Which adapter, with which weight, served each token in each linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from meteora_rs import _native

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TraceRecord:
    """One linear of one forward pass: `slots [rows, tokens, k]` (−1: none) and `weights` of the same shape."""

    step: int
    site: int
    slots: Ints
    weights: Floats


@dataclass(frozen=True)
class AdapterSummary:
    """An adapter's share of all routing decisions (tokens × sites), by weight, and the tokens that it led."""

    share: float
    tokens: int


class Trace:
    """Filled while its `meteora.trace()` block runs; read as numpy arrays afterwards.

    Attributes:
        records: one `TraceRecord` for each linear of each forward pass, in order.
        sites: the sites' paths; `TraceRecord.site` indexes them.
        names: slot → adapter, of those that the request seen last could reach, and of no others; an adapter's slot may
            change while the block is open.
    """

    def __init__(self, sites: Sequence[str]) -> None:
        self.sites = list(sites)
        self.records: list[TraceRecord] = []
        self.names: dict[int, str] = {}
        self._names: list[dict[int, str]] = []  # by step
        self._step, self._rows = -1, 1
        self._seen: set[int] | None = None  # the sites of this step, which is over when one of them comes again

    def record(
        self, plan: _native.RoutePlan, site: int, shape: Sequence[int], chosen: tuple[int, bytes, bytes]
    ) -> None:
        """Note what the kernel chose for an input of `shape [..., in]` (called by `Site`)."""
        if self._seen is None or site in self._seen:
            self._seen = set()
            self._step += 1
            self.names = dict(plan.names())
            self._names.append(self.names)
            self._rows = shape[0] if len(shape) > 2 else 1  # for all of the step: some linears see flattened tokens
        self._seen.add(site)
        stride, slots, weights = chosen
        dims = (self._rows, -1 if slots else 0, stride)
        self.records.append(
            TraceRecord(
                self._step,
                site,
                np.frombuffer(slots, np.int32).reshape(dims),
                np.frombuffer(weights, np.float32).reshape(dims),
            )
        )

    @property
    def adapters(self) -> list[str]:
        """The adapters that the traced requests could reach, those of one in slot order; the last axis of
        `token_weights`. Others that are live are not told of: they may be somebody else's."""
        return list(dict.fromkeys(names[slot] for names in self._names for slot in sorted(names)))

    def token_weights(self, row: int = 0) -> Floats:
        """The weight of each adapter for each token of batch row `row` at each site: `[tokens, sites, adapters]`.

        Tokens run over all traced forward passes: the prompt (left padding included), then one for each step. What
        a token's weights lack to 1 went to the base.

        Raises:
            IndexError: there is no such row.
        """
        columns = {name: column for column, name in enumerate(self.adapters)}
        steps: dict[int, list[TraceRecord]] = {}
        for record in self.records:
            steps.setdefault(record.step, []).append(record)
        parts = []
        if self.records and not any(row < record.slots.shape[0] for record in self.records):
            raise IndexError(f"no traced batch has a row {row}")
        for records in steps.values():
            if row >= records[0].slots.shape[0]:
                continue
            tokens = records[0].slots.shape[1]
            part = np.zeros((tokens, len(self.sites), len(columns)), np.float32)
            for record in records:
                for slot, name in self._names[record.step].items():
                    chosen = record.slots[row] == slot
                    part[:, record.site, columns[name]] = (record.weights[row] * chosen).sum(axis=-1)
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros((0, len(self.sites), len(columns)), np.float32)

    def leaders(self, row: int = 0) -> list[str]:
        """For each token of a row, the adapter with the most weight over all sites, or `"__base__"` for none."""
        weights = self.token_weights(row).mean(axis=1)
        base = np.clip(1 - weights.sum(axis=1, keepdims=True), 0, None)
        names = [*self.adapters, "__base__"]
        return [names[index] for index in np.concatenate([weights, base], axis=1).argmax(axis=1)]

    def summary(self) -> dict[str, AdapterSummary]:
        """Each adapter's share over all rows, largest first, with `"__base__"` for what went to none."""
        if not self.records:
            return {}
        rows = range(max(record.slots.shape[0] for record in self.records))
        weights = np.concatenate([self.token_weights(row) for row in rows]).mean(axis=1)
        leaders = [leader for row in rows for leader in self.leaders(row)]
        shares = dict(zip(self.adapters, weights.mean(axis=0).tolist(), strict=True))
        shares["__base__"] = max(0.0, 1 - sum(shares.values()))
        return {
            name: AdapterSummary(share, leaders.count(name))
            for name, share in sorted(shares.items(), key=lambda item: -item[1])
        }

    def plot(self, path: str | Path, row: int = 0, tokens: Sequence[str] | None = None) -> None:
        """Write a token × site heat map of the leading adapters of a row to `path` (needs matplotlib).

        Raises:
            ImportError: matplotlib is not installed.
        """
        from meteora_rs.routing.trace_plot import plot_trace

        plot_trace(self.token_weights(row), self.adapters, path, tokens)
