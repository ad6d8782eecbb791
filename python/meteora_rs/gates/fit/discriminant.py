"""Linear discriminant analysis: gate rows in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .statistics import ClassStatistics

Rows = tuple[Tensor, Tensor]
"""W `[C, width]` and b `[C]`, float32."""


def solve(statistics: ClassStatistics, shrinkages: Sequence[float], *, where: str = "the input") -> list[Rows]:
    """Gate rows and biases whose logits are the classes' log-posteriors up to a common term, for each shrinkage.

    With means mu_c, their mean m, d_c = mu_c - m, and S = scatter + shrinkage · mean(diag(scatter)) · I:

        W_c = S⁻¹ d_c,   b_c = -W_c · (m + d_c / 2)        equal priors

    Taking m off changes all logits of a token alike and keeps them small. The rows apply to the raw input: a
    scale common to all inputs cancels in S. Returns (W `[C, width]`, b `[C]`), float32, in the order of `shrinkages`.
    Source: the gate term of MeteoRA, arXiv 2405.13053, section 3.3, is a multinomial logistic regression;
    this is its generative form (Fisher 1936) on activations taken once.

    Raises:
        ValueError: statistics that are not finite; the message says `where`.
    """
    means, scatter = statistics.means(), statistics.scatter()
    if not (means.isfinite().all() and scatter.isfinite().all()):
        raise ValueError(f"fit_gates: an activation at {where} is infinite or NaN")
    middle = means.mean(0)
    offsets = means - middle
    solved = []
    for weights in shrunk_solve(scatter, shrinkages, offsets):
        biases = -(weights * (middle + offsets / 2)).sum(1)
        solved.append((weights.float(), biases.float()))
    return solved


def shrunk_solve(scatter: Tensor, shrinkages: Sequence[float], offsets: Tensor) -> Iterator[Tensor]:
    """`offsets · (scatter + shrinkage · mean(diag(scatter)) · I)⁻¹` for each shrinkage; writes into `scatter`."""
    diagonal = scatter.diagonal().clone()
    level = diagonal.mean().clamp(min=0.0)
    if level == 0.0:  # every token of a class is the same: nothing to divide by
        level = torch.ones_like(level)
    for shrinkage in shrinkages:
        scatter.diagonal().copy_(diagonal + shrinkage * level)
        yield torch.cholesky_solve(offsets.T, torch.linalg.cholesky(scatter)).T
