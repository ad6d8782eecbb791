"""Logistic regression that begins with the closed form: rows for classes that are no Gaussians of one shape."""

from __future__ import annotations

import torch
from torch import Tensor

from meteora_rs.gates.tried import Rows
from meteora_rs.ops.precision import without_autocast

from .discriminant import Metric

STEPS = 10
"""Of L-BFGS: the rows shall leave the closed form, not learn the texts by heart."""

PULL = 1e-3
"""Nats for each unit of squared distance from the closed form: few tokens move the rows little."""


@without_autocast
def refine(
    x: Tensor,
    labels: Tensor,
    metric: Metric,
    start: Rows,
    *,
    weights: Tensor | None = None,
    fixed: Tensor | None = None,
) -> Rows:
    """Gate rows with a smaller cross-entropy on tokens x `[N, width]` float32 of classes `labels [N]` than `start`.

    A few steps down

        mean_c mean_{t in c} -log softmax(W x_t + b)_c + PULL · ‖(W - W_start) / scales · L‖²        of the metric

    in the coordinates W L, where directions in which tokens of one class differ little cost as much as others. The
    classes count alike, and a class's tokens by `weights` `[N]`, alike if None. fixed: the tokens' logits for further
    classes, `[N, F]` float32, whose rows stay as they are; their labels follow those of `start`. Writes into x.
    Source: the gate term of MeteoRA, arXiv 2405.13053, section 3.3; L-BFGS as torch.optim has it.
    """
    scales, factor = metric.scales.float(), metric.factor.float()
    x.mul_(scales)
    began = (start[0] / scales) @ factor
    rows, biases = began.clone(), start[1].clone()
    weights = torch.ones(len(labels), dtype=torch.float32) if weights is None else weights
    fixed = torch.empty(len(labels), 0, dtype=torch.float32) if fixed is None else fixed
    classes = len(rows) + fixed.shape[1]
    totals = torch.zeros(classes, dtype=torch.float32).index_add_(0, labels, weights)
    weights = weights / totals[labels] / classes
    rows.grad, biases.grad = torch.zeros_like(rows), torch.zeros_like(biases)
    descent = torch.optim.LBFGS([rows, biases], max_iter=STEPS, history_size=STEPS, line_search_fn="strong_wolfe")

    def plain() -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(factor, rows, upper=False, left=False)
        return solved

    def loss() -> Tensor:
        logs = torch.log_softmax(torch.cat([torch.addmm(biases, x, plain().T), fixed], 1), 1)
        away = rows - began
        nats: Tensor = -(weights * logs.gather(1, labels[:, None])[:, 0]).sum() + PULL * away.square().sum()
        slopes = logs.exp_()
        slopes[torch.arange(len(labels)), labels] -= 1
        slopes = slopes[:, : len(rows)] * weights[:, None]
        pulled = torch.linalg.solve_triangular(factor.T, slopes.T @ x, upper=True, left=False)
        rows.grad = pulled.add(away, alpha=2 * PULL).contiguous()
        biases.grad = slopes.sum(0)
        return nats

    descent.step(loss)  # type: ignore[no-untyped-call]
    return plain() * scales, biases
