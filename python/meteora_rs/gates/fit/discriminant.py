"""Linear discriminant analysis: gate rows in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import ClassStatistics


def solve(statistics: ClassStatistics, shrinkage: float, *, where: str = "the input") -> tuple[Tensor, Tensor]:
    """Gate rows and biases whose logits are the classes' log-posteriors up to a common term.

    With means mu_c, their mean m, d_c = mu_c - m, and S = scatter + shrinkage · mean(diag(scatter)) · I:

        W_c = S⁻¹ d_c,   b_c = -W_c · (m + d_c / 2)        equal priors

    Taking m off changes all logits of a token alike and keeps them small. The rows apply to the raw input: a
    scale common to all inputs cancels in S. Returns W `[C, width]` and b `[C]`, float32.
    Source: the gate term of MeteoRA, arXiv 2405.13053, section 3.3, is a multinomial logistic regression;
    this is its generative form (Fisher 1936) on activations taken once.

    Raises:
        ValueError: statistics that are not finite; the message says `where`.
    """
    means = statistics.means()
    scatter = statistics.scatter()
    if not (means.isfinite().all() and scatter.isfinite().all()):
        raise ValueError(f"fit_gates: an activation at {where} is infinite or NaN")
    middle = means.mean(0)
    offsets = means - middle
    level = scatter.diagonal().mean().clamp(min=0.0)
    if level == 0.0:  # every token of a class is the same: nothing to divide by
        level = torch.ones_like(level)
    scatter.diagonal().add_(shrinkage * level)
    factor = torch.linalg.cholesky(scatter)
    rows = torch.cholesky_solve(offsets.T, factor).T
    biases = -(rows * (middle + offsets / 2)).sum(1)
    return rows.float(), biases.float()
