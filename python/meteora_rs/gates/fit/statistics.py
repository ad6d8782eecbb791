"""Sums over activations that a discriminant is solved from, collected in one sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from meteora_rs.ops.precision import without_autocast

BLOCK = 384
"""Columns that are multiplied at once: of a symmetric product only the blocks up to the diagonal are needed."""


class ClassStatistics:
    """Class means and the shared scatter of one input, summed as batches come in.

    A token of class c has weight v_t = w_t / n_c, where w_t is 1 if not given, so that classes count alike however
    long their texts are:

        mean_c = Σ_{t in c} v_t x_t / V_c,   scatter = Σ_c Σ_{t in c} v_t (x_t - mean_c)(x_t - mean_c)ᵀ / Σ_c V_c

    where V_c = Σ_{t in c} v_t, 1 if no weights are given.

    Memory: `width · (4 · width + 8 · C)` bytes. Squares are float32, of deviations from the batch's own mean of the
    class, with what the means of batches differ: none is large that is taken off again. Where a head looks at the
    first token alone, thousands of tokens are nearly constant, and their small variance must not drown.
    Source: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """

    def __init__(self, width: int, counts: Tensor) -> None:
        """`counts [C]`: how many tokens each class will bring in all, each at least 1."""
        self.counts = counts
        self._weight = counts.reciprocal().float()
        self._pivot: Tensor | None = None
        self._offsets = torch.zeros(len(counts), width, dtype=torch.float64)  # the class means less the pivot
        self._squares = torch.zeros(width, width, dtype=torch.float32)
        self._totals = torch.zeros(len(counts), dtype=torch.float64)

    @property
    def pivot(self) -> Tensor:
        """`[width]` float32, the mean of the first batch: activations are far from zero in a few coordinates."""
        assert self._pivot is not None
        return self._pivot

    @staticmethod
    def bytes(width: int, classes: int) -> int:
        """What the sums of one input take."""
        return width * (4 * width + 8 * classes)

    @without_autocast
    def add(self, x: Tensor, labels: Tensor, weights: Tensor | None = None) -> None:
        """Count tokens x `[N, width]` of any float dtype, with their classes `[N]` int64 and weights `[N]` float32."""
        if len(x) == 0:
            return
        x = x.float()
        if self._pivot is None:
            self._pivot = x.mean(0)
            self._offsets, self._squares = self._offsets.to(x.device), self._squares.to(x.device)
        weight = self._weight[labels]
        if weights is not None:
            weight = weight * weights.cpu()
        shares = torch.zeros(len(self.counts), len(x), dtype=torch.float32)
        shares[labels, torch.arange(len(x))] = weight
        totals = shares.sum(1)
        shares /= totals.clamp(min=1e-30)[:, None]
        centred = x - self._pivot
        means = shares.to(x.device) @ centred
        centred -= means[labels.to(x.device)]
        centred *= weight.to(x.device).sqrt()[:, None]
        self._square(torch.cat([centred, self._moved(means, totals.double())]))

    def _moved(self, means: Tensor, totals: Tensor) -> Tensor:
        """Takes a batch's class means and weights in; returns what their distance adds to the squares, `[C, width]`."""
        together = (self._totals + totals).clamp(min=1e-30)
        apart = means.double() - self._offsets
        self._offsets += apart * (totals / together).to(apart.device)[:, None]
        common = (self._totals * totals / together).sqrt()
        self._totals += totals
        return (apart * common.to(apart.device)[:, None]).float()

    def _square(self, rows: Tensor) -> None:
        for start in range(0, rows.shape[1], BLOCK):
            block = rows[:, start : start + BLOCK]
            stop = start + block.shape[1]
            self._squares[start:stop, :stop].addmm_(block.T, rows[:, :stop])

    def means(self) -> Tensor:
        """The class means, `[C, width]` float64; zeros before the first token."""
        return self._offsets + (0.0 if self._pivot is None else self._pivot.double())

    def scatter(self) -> Tensor:
        """The weighted mean of the classes' own covariances, `[width, width]` float64; zeros before the first token."""
        lower = self._squares.double().tril_()
        return (lower + lower.tril(-1).T).div_(max(float(self._totals.sum()), 1e-30))
