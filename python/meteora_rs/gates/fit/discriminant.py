"""Linear discriminant analysis: gate rows in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meteora_rs.gates.tried import Rows

from .statistics import ClassStatistics

FLOOR = 1e-4


def solve(
    statistics: ClassStatistics, shrinkages: Sequence[float], *, where: str = "the input"
) -> Iterator[tuple[Rows, Metric]]:
    """Gate rows and biases whose logits are the classes' log-posteriors up to a common term, for each shrinkage; and
    the metric that they were solved in, to be used before the next is asked for, which takes as much memory again.

    With means mu_c, their mean m, d_c = mu_c - m, and S = scatter + shrinkage · diag(scatter):

        W_c = S⁻¹ d_c,   b_c = -W_c · (m + d_c / 2)        equal priors

    Taking m off changes all logits of a token alike and keeps them small. Each coordinate is shrunk by its own
    variance, so that scales cancel: a few coordinates vary thousands of times as much as the rest, and a share of
    the mean variance would wipe out what tells near twins apart.
    Yields (W `[C, width]`, b `[C]`), float32, in the order of `shrinkages`.
    Source: the gate term of MeteoRA, arXiv 2405.13053, section 3.3, is a multinomial logistic regression;
    this is its generative form (Fisher 1936) on activations taken once.

    Raises:
        ValueError: statistics that are not finite; the message says `where`.
    """
    means, scatter = statistics.means(), statistics.scatter()
    if not (means.isfinite().all() and scatter.isfinite().all()):
        raise ValueError(f"fit_gates: an activation at {where} is infinite or NaN")
    middle = means.mean(0)
    for metric in metrics(scatter, shrinkages):
        yield metric.rows(means, middle), metric


@dataclass(frozen=True)
class Metric:
    """`scale · (scatter + shrinkage · diag(scatter)) · scale`, factored: `L Lᵀ`; float64.

    A variance below `FLOOR` of the mean counts as that much: a coordinate that never moves says nothing.
    """

    scales: Tensor
    factor: Tensor

    def rows(self, means: Tensor, middle: Tensor) -> Rows:
        """`W = (means - middle) · (scatter + shrinkage · diag(scatter))⁻¹`, `b = -W · (middle + means) / 2`."""
        offsets = means - middle
        weights = torch.cholesky_solve((offsets * self.scales).T, self.factor).T * self.scales
        biases = -(weights * (middle + offsets / 2)).sum(1)
        return weights.float(), biases.float()


def metrics(scatter: Tensor, shrinkages: Sequence[float]) -> Iterator[Metric]:
    """The metric of each shrinkage; writes into `scatter`."""
    scales = _scaled(scatter)
    level = scatter.diagonal().clone()
    for shrinkage in shrinkages:
        scatter.diagonal().copy_(level + shrinkage)
        yield Metric(scales, torch.linalg.cholesky(scatter))


def _scaled(scatter: Tensor) -> Tensor:
    """Makes a scatter's coordinates of one size, where a factorisation loses the fewest digits; returns their scales.

    `scatter` becomes `scale · scatter · scale`, in place; see `Metric` for small variances.
    """
    diagonal = scatter.diagonal().clone()
    floor = FLOOR * diagonal.mean().clamp(min=0.0)
    if floor == 0.0:  # every token of a class is the same: nothing to divide by
        floor = torch.ones_like(floor)
    scales = diagonal.clamp(min=float(floor)).rsqrt()
    scatter.mul_(scales).mul_(scales[:, None])
    return scales
