"""Sums over activations that a discriminant is solved from, collected in one sweep."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 384
"""Columns that are multiplied at once: of a symmetric product only the blocks up to the diagonal are needed."""


class ClassStatistics:
    """Class means and the shared scatter of one input, summed as batches come in.

    A token of class c has weight v_t = w_t / n_c, where w_t is 1 if not given, so that classes count alike however
    long their texts are:

        mean_c = Σ_{t in c} v_t x_t / V_c,   scatter = Σ_c Σ_{t in c} v_t (x_t - mean_c)(x_t - mean_c)ᵀ / Σ_c V_c

    where V_c = Σ_{t in c} v_t, 1 if no weights are given.

    Memory: `width · (width + C) · 4` bytes. Sums are float32 about a pivot, the mean of the first batch:
    activations are far from zero in a few coordinates, and their squares would drown the scatter.
    """

    def __init__(self, width: int, counts: Tensor) -> None:
        """`counts [C]`: how many tokens each class will bring in all, each at least 1."""
        self.counts = counts
        self._weight = counts.reciprocal().float()
        self._pivot: Tensor | None = None
        self._sums = torch.zeros(len(counts), width, dtype=torch.float32)
        self._squares = torch.zeros(width, width, dtype=torch.float32)
        self._totals = torch.zeros(len(counts), dtype=torch.float64)

    @property
    def pivot(self) -> Tensor:
        """`[width]` float32, near the mean of all; there is one from the first token on."""
        assert self._pivot is not None
        return self._pivot

    @staticmethod
    def bytes(width: int, classes: int) -> int:
        """What the sums of one input take."""
        return width * (width + classes) * 4

    def add(self, x: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Count tokens x `[N, width]` of any float dtype, with their classes `[N]` int64 and weights `[N]` float32."""
        if len(x) == 0:
            return
        x = x.float()
        if self._pivot is None:
            self._pivot = x.mean(0)
            self._sums, self._squares = self._sums.to(x.device), self._squares.to(x.device)
        centred = x - self._pivot
        weight = self._weight[labels]
        if weights is not None:
            weight = weight * weights.cpu()
        self._totals.index_add_(0, labels, weight.double())
        weight = weight.to(x.device)[:, None]
        self._sums.index_add_(0, labels.to(x.device), centred * weight)
        centred *= weight.sqrt()
        for start in range(0, x.shape[1], BLOCK):
            rows = centred[:, start : start + BLOCK]
            stop = start + rows.shape[1]
            self._squares[start:stop, :stop].addmm_(rows.T, centred[:, :stop])

    def means(self) -> Tensor:
        """The class means, `[C, width]` float64; zeros before the first token."""
        pivot = 0.0 if self._pivot is None else self._pivot.double()
        return self._offsets() + pivot

    def scatter(self) -> Tensor:
        """The weighted mean of the classes' own covariances, `[width, width]` float64; zeros before the first token."""
        lower = self._squares.double().tril_()
        squares = lower + lower.tril(-1).T
        sums = self._sums.double()
        return squares.addmm_(sums.T, self._offsets(), alpha=-1.0).div_(max(float(self._totals.sum()), 1e-30))

    def _offsets(self) -> Tensor:
        """The class means less the pivot."""
        return self._sums.double() / self._totals.clamp(min=1e-30).to(self._sums.device)[:, None]
