"""Logistic regression from the closed form on."""

from __future__ import annotations

import torch
from meteora_rs.gates.fit.discriminant import Metric, Rows, solve
from meteora_rs.gates.fit.logistic import refine
from meteora_rs.gates.fit.statistics import ClassStatistics
from torch import Tensor

WIDTH, CLASSES, SHRINKAGE = 12, 3, 1e-2


def two_kinds(seed: int) -> tuple[Tensor, Tensor]:
    """Tokens of three classes, each of two kinds far apart, the second kind of few: no Gaussians of one shape."""
    random = torch.Generator().manual_seed(seed)
    centres = 1.2 * torch.randn(2 * CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    kinds = torch.arange(2 * CLASSES).repeat_interleave(torch.tensor([300, 60] * CLASSES))
    return centres[kinds] + torch.randn(len(kinds), WIDTH, generator=random), kinds // 2


def closed(x: Tensor, labels: Tensor) -> tuple[Metric, Rows]:
    statistics = ClassStatistics(WIDTH, labels.bincount().double())
    statistics.add(x, labels)
    ((rows, metric),) = solve(statistics, [SHRINKAGE])
    return metric, rows


def entropy(x: Tensor, labels: Tensor, rows: Rows) -> float:
    return float(torch.nn.functional.cross_entropy(x @ rows[0].T + rows[1], labels))


def test_it_beats_the_closed_form_on_tokens_it_has_not_seen() -> None:
    x, labels = two_kinds(1)
    metric, start = closed(x, labels)
    refined = refine(x.clone(), labels, metric, start)
    unseen = two_kinds(2)
    assert entropy(*unseen, refined) < 0.9 * entropy(*unseen, start)


def test_gaussians_of_one_shape_stay_as_they_are() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(2000)
    x = torch.randn(CLASSES, WIDTH, generator=random)[labels] + torch.randn(len(labels), WIDTH, generator=random)
    metric, start = closed(x, labels)
    refined = refine(x.clone(), labels, metric, start)
    assert abs(entropy(x, labels, refined) - entropy(x, labels, start)) < 0.04 * entropy(x, labels, start)


def test_scales_of_coordinates_change_no_logit() -> None:
    x, labels = two_kinds(1)
    scales = torch.logspace(-1, 1, WIDTH)
    logits = []
    for scale in (torch.ones(WIDTH), scales):
        metric, start = closed(x * scale, labels)
        rows, biases = refine(x * scale, labels, metric, start)
        logits.append(x * scale @ rows.T + biases)
    assert torch.allclose(*logits, rtol=1e-2, atol=1e-2 * float(logits[0].std()))


def test_a_token_of_twice_the_weight_counts_as_two() -> None:
    x, labels = two_kinds(1)
    metric, start = closed(x, labels)
    weights = torch.where(torch.arange(len(labels)) % 3 == 0, 2.0, 1.0)
    twice = torch.arange(len(labels)).repeat_interleave(weights.long())
    weighed = refine(x.clone(), labels, metric, start, weights=weights)
    repeated = refine(x[twice], labels[twice], metric, start)
    assert torch.allclose(weighed[0], repeated[0], atol=1e-3)


def test_a_class_of_few_tokens_counts_as_much() -> None:
    x, labels = two_kinds(1)
    few = torch.cat([torch.arange(0, 720), torch.arange(720, 1080, 20)])
    metric, start = closed(x[few], labels[few])
    rows, biases = refine(x[few], labels[few], metric, start)
    given = (x @ rows.T + biases).argmax(1)
    assert (given[labels == 2] == 2).float().mean() > 0.7


def test_beside_fixed_rows_only_the_new_one_moves_and_learns() -> None:
    x, labels = two_kinds(1)
    metric, (rows, biases) = closed(x, labels)
    fixed = x @ rows[1:].T + biases[1:]
    start = rows[:1], biases[:1]
    row, bias = refine(x.clone(), labels, metric, start, fixed=fixed)
    assert row.shape == (1, WIDTH)
    assert bias.shape == (1,)
    unseen = two_kinds(2)
    refined = torch.cat([row, rows[1:]]), torch.cat([bias, biases[1:]])
    assert entropy(*unseen, refined) < 0.97 * entropy(*unseen, (rows, biases))


def test_with_all_rows_free_or_one_fixed_that_is_right_the_same_is_found() -> None:
    x, labels = two_kinds(1)
    metric, start = closed(x, labels)
    rows, biases = refine(x.clone(), labels, metric, start)
    fixed = x @ rows[1:].T + biases[1:]
    row, bias = refine(x.clone(), labels, metric, (rows[:1], biases[:1]), fixed=fixed)
    assert torch.allclose(row, rows[:1], atol=0.1)
    assert torch.allclose(bias, biases[:1], atol=0.1)
