"""The closed form against a dense float64 one, and on a problem whose answer is known."""

from __future__ import annotations

import pytest
import torch
from meteora_rs.gates.fit.discriminant import solve
from meteora_rs.gates.fit.statistics import BLOCK, ClassStatistics
from meteora_rs.gates.tried import Rows
from torch import Tensor

WIDTH, CLASSES = 12, 3


def clouds(per_class: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian classes with one covariance, far from zero; also the true means."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=random, dtype=torch.float64) / WIDTH**0.5
    means = 30.0 + torch.randn(len(per_class), WIDTH, generator=random, dtype=torch.float64)
    labels = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    noise = torch.randn(len(labels), WIDTH, generator=random, dtype=torch.float64)
    return means[labels] + noise @ mixing.T, labels, means


def summed(x: Tensor, labels: Tensor, parts: int = 1) -> ClassStatistics:
    """The statistics of x, taken in `parts` batches."""
    statistics = ClassStatistics(x.shape[1], labels.bincount(minlength=CLASSES).double())
    for some_x, some_labels in zip(x.chunk(parts), labels.chunk(parts), strict=True):
        statistics.add(some_x, some_labels)
    return statistics


def solved(x: Tensor, labels: Tensor, *shrinkages: float) -> list[Rows]:
    """The rows of each shrinkage."""
    return [rows for rows, _ in solve(summed(x, labels), shrinkages)]


def dense(x: Tensor, labels: Tensor, shrinkage: float) -> Tensor:
    """Log-posteriors of x by the textbook, in float64, up to a term common to the classes."""
    means = torch.stack([x[labels == c].mean(0) for c in range(CLASSES)])
    scatters = [torch.cov(x[labels == c].T, correction=0) for c in range(CLASSES)]
    s = torch.stack(scatters).mean(0)
    s += shrinkage * s.diagonal().diag()
    rows = torch.linalg.solve(s, means.T).T
    logits: Tensor = x @ rows.T - 0.5 * (rows * means).sum(1)
    return logits


@pytest.mark.parametrize("per_class", [[400, 400, 400], [700, 40, 300]])
@pytest.mark.parametrize("shrinkage", [1e-3, 0.1])
def test_equals_the_dense_form(per_class: list[int], shrinkage: float) -> None:
    x, labels, _ = clouds(per_class)
    rows, biases = solved(x, labels, shrinkage)[0]
    assert rows.dtype == biases.dtype == torch.float32
    logits = x @ rows.double().T + biases.double()
    expected = dense(x, labels, shrinkage)
    difference = (logits - logits.mean(1, keepdim=True)) - (expected - expected.mean(1, keepdim=True))
    assert difference.abs().max() < 2e-3 * expected.std()


def test_the_scale_of_a_coordinate_changes_no_logit() -> None:
    x, labels, _ = clouds([400] * CLASSES)
    scales = torch.logspace(-0.7, 0.7, WIDTH, dtype=torch.float64)
    rows, biases = solved(x, labels, 0.1)[0]
    scaled, scaled_biases = solved(x * scales, labels, 0.1)[0]
    assert torch.allclose(scaled * scales.float(), rows, rtol=1e-2, atol=1e-3 * rows.abs().max().item())
    assert torch.allclose(scaled_biases, biases, rtol=1e-2)


def test_each_shrinkage_is_solved_as_if_alone() -> None:
    x, labels, _ = clouds([200, 150, 100])
    several = solved(x, labels, 1e-3, 0.1, 1.0)
    for (rows, biases), shrinkage in zip(several, [1e-3, 0.1, 1.0], strict=True):
        alone, alone_biases = solved(x, labels, shrinkage)[0]
        assert torch.equal(rows, alone)
        assert torch.equal(biases, alone_biases)


def test_wide_inputs_are_summed_in_blocks() -> None:
    x = torch.randn(50, 2 * BLOCK + 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat(17)[:50]
    means = torch.stack([x[labels == c].mean(0) for c in range(CLASSES)])
    weight = labels.bincount().double().reciprocal()[labels, None] / CLASSES
    centred = x - means[labels]
    assert torch.allclose(summed(x, labels).scatter(), centred.T @ (centred * weight), atol=1e-5)


def test_a_weight_counts_as_that_many_tokens() -> None:
    x, labels, _ = clouds([60, 50, 40])
    times = torch.randint(1, 4, (len(x),), generator=torch.Generator().manual_seed(0))
    weighted = ClassStatistics(WIDTH, labels.bincount().double())
    for start in (0, 70):  # in two batches
        part = slice(start, start + 70 if start == 0 else None)
        weighted.add(x[part], labels[part], times[part].float())
    repeated = x.repeat_interleave(times, 0), labels.repeat_interleave(times)
    means = torch.stack([repeated[0][repeated[1] == c].mean(0) for c in range(CLASSES)])
    assert torch.allclose(weighted.means(), means, atol=1e-4)
    # Each token again as often as its weight, over the number of its class's tokens without weights.
    shares = labels.bincount().double().reciprocal()[repeated[1]]
    centred = repeated[0] - means[repeated[1]]
    assert torch.allclose(weighted.scatter(), centred.T @ (centred * shares[:, None]) / shares.sum(), atol=1e-4)


def test_before_the_first_token_there_is_nothing() -> None:
    empty = ClassStatistics(WIDTH, torch.ones(CLASSES, dtype=torch.float64))
    assert not empty.means().any()
    assert not empty.scatter().any()


def test_recovers_gaussian_classes() -> None:
    x, labels, means = clouds([800] * CLASSES)
    rows, biases = solved(x, labels, 1e-3)[0]
    fresh, fresh_labels, _ = clouds([800] * CLASSES)
    right = (fresh.float() @ rows.T + biases).argmax(1) == fresh_labels
    assert right.double().mean() > 0.95
    assert torch.equal((means.float() @ rows.T + biases).argmax(1), torch.arange(CLASSES))


def test_streaming_is_the_batch() -> None:
    x, labels, _ = clouds([200, 150, 100])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    once, streamed = summed(x, labels), summed(x[order], labels[order], parts=9)
    assert torch.allclose(once.means(), streamed.means(), rtol=1e-6)
    assert torch.allclose(once.scatter(), streamed.scatter(), atol=1e-5)


def test_a_far_pivot_does_not_drown_the_scatter() -> None:
    x, labels, _ = clouds([300] * CLASSES)
    near, far = summed(x, labels).scatter(), summed(x + 1e3, labels).scatter()
    assert torch.allclose(near, far, atol=1e-3)


def test_inputs_without_variance_are_no_division_by_zero() -> None:
    x, labels = torch.ones(30, WIDTH), torch.arange(CLASSES).repeat(10)
    rows, biases = solved(x, labels, 0.01)[0]
    assert not rows.any()
    assert not biases.any()


def test_an_activation_that_is_not_finite_is_named() -> None:
    x, labels, _ = clouds([20] * CLASSES)
    x[3, 3] = torch.inf
    with pytest.raises(ValueError, match=r"layers\.0\.q_proj is infinite or NaN"):
        next(solve(summed(x, labels), [0.01], where="layers.0.q_proj"))


def test_many_tokens_that_are_nearly_constant_far_from_the_pivot_keep_their_small_variance() -> None:
    """As of a head whose attention rests on the first token, which differs in the texts of the first batch."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(60_000, WIDTH, generator=random, dtype=torch.float64)
    x[:, :4] = 0.3 + 1e-3 * x[:, :4]
    labels = torch.arange(len(x)) % CLASSES
    statistics = ClassStatistics(WIDTH, labels.bincount().double())
    statistics.add(torch.zeros(2 * CLASSES, WIDTH), labels[: 2 * CLASSES], torch.full((2 * CLASSES,), 1e-9))
    for some_x, some_labels in zip(x.chunk(30), labels.chunk(30), strict=True):
        statistics.add(some_x, some_labels)
    exact = torch.stack([torch.cov(x[labels == c].T, correction=0) for c in range(CLASSES)]).mean(0)
    deviations = exact.diagonal().sqrt()
    assert ((statistics.scatter() - exact) / deviations / deviations[:, None]).abs().max() < 1e-3
