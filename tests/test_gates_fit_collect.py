"""What one input group takes from a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from meteora_rs.gates.fit.collect import HARD, GroupActivations, collect
from meteora_rs.gates.fit.data import Batch
from transformers import PreTrainedModel


def batch() -> Batch:
    """Two texts of two tokens each and one pad; the third place of the first text only tests."""
    return Batch(
        ids=torch.zeros(2, 3, dtype=torch.int64),
        mask=torch.tensor([[1, 1, 1], [1, 1, 0]]),
        labels=torch.tensor([0, 1]),
        responses=torch.zeros(2, dtype=torch.int64),
        teach=torch.tensor([0, 1, 3, 4]),
        test=torch.tensor([2]),
    )


def test_places_that_predict_a_response_answer() -> None:
    one = replace(batch(), responses=torch.tensor([2, 0]))
    assert one.answering.tolist() == [False, True, True, True, True, True]


X = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [7.0, 7.0]], [[4.0, 1.0], [6.0, 3.0], [9.0, 9.0]]])


def group(judge: tuple[torch.Tensor, torch.Tensor] | None = None) -> GroupActivations:
    counts = torch.full((2,), 2, dtype=torch.float64)
    made = GroupActivations("layers.0.q_proj", 2, counts, torch.tensor([0]), X, judge)
    made.add(X, batch())
    return made


def test_teaching_tokens_teach_and_testing_ones_are_kept() -> None:
    made = group()
    assert made.kind == "q_proj"
    assert torch.allclose(made.statistics.means(), torch.tensor([[1.0, 0.5], [5.0, 2.0]], dtype=torch.float64))
    x, labels = made.kept_back()
    assert (x.tolist(), labels.tolist()) == ([[7.0, 7.0]], [0])


def test_tokens_that_the_pass_before_gave_away_count_more() -> None:
    # The judge gives a token to class 1 if its first coordinate is above 1: the second one of class 0 is lost.
    judge = (torch.tensor([[0.0, 0.0], [50.0, 0.0]]), torch.tensor([0.0, -50.0]))
    weight = 1 + HARD
    mean = (X[0, 0] + weight * X[0, 1]) / (1 + weight)
    assert group(judge).statistics.means()[0].tolist() == pytest.approx(mean.tolist())
    assert torch.allclose(group(judge).statistics.means()[1], group().statistics.means()[1])


def test_what_other_threads_run_does_not_count(model: PreTrainedModel) -> None:
    def other() -> None:
        model(input_ids=torch.full((1, 9), 3))

    @contextmanager
    def routing(_batch: Batch) -> Iterator[None]:
        thread = threading.Thread(target=caught, args=(other,))
        thread.start()
        thread.join()
        yield

    def caught(run: Callable[[], None]) -> None:
        try:
            run()
        except Exception as error:
            failures.append(error)

    def means(routing: Callable[[Batch], AbstractContextManager[None]]) -> torch.Tensor:
        counts = torch.full((2,), 2, dtype=torch.float64)
        path = "model.layers.0.self_attn.q_proj"
        width = model.get_submodule(path).in_features
        made = GroupActivations(path, int(width), counts, torch.tensor([0]), torch.zeros(1))
        with torch.no_grad():
            collect(
                model, [made], [replace(batch(), ids=torch.tensor([[5, 6, 7], [8, 9, 0]]))], routing, lambda _: None
            )
        return made.statistics.means()

    failures: list[Exception] = []
    alone = means(lambda _: nullcontext())
    assert torch.equal(means(routing), alone)
    assert not failures


def test_no_more_of_the_model_runs_than_is_read(model: PreTrainedModel) -> None:
    ran: list[int] = []
    layers = list(model.get_submodule("model.layers").children())
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    counts = torch.full((2,), 2, dtype=torch.float64)
    made = []
    for name in ("q_proj", "o_proj"):
        path = f"model.layers.1.self_attn.{name}"
        width = model.get_submodule(path).in_features
        made.append(GroupActivations(path, int(width), counts, torch.tensor([0]), torch.zeros(1)))
    read = replace(batch(), ids=torch.tensor([[5, 6, 7], [8, 9, 0]]))
    with torch.no_grad():
        collect(model, made, [read], lambda _: nullcontext(), lambda _: None)
        assert ran == [0]
        assert all(each.statistics.means().abs().sum() > 0 for each in made)
        model(input_ids=read.ids)
    assert ran == [0, *range(len(layers))]
