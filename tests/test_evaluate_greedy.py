"""A batch is answered as its prompts are one by one, by `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from meteora_rs.evaluate.greedy import Batch
from tiny_text import save_model
from transformers import AutoModelForCausalLM

PROMPTS = ([5, 6, 7], [5, 6, 7, 8, 9, 4], [5, 6, 8], [5, 6])
LIMIT = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(save_model(tmp_path_factory.mktemp("model")))
    return model.eval()


def alone(model: Any, prompt: Sequence[int]) -> list[int]:
    ids = torch.tensor([list(prompt)])
    options = {"max_new_tokens": LIMIT, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
    return found


def until(tokens: list[int], ends: set[int]) -> list[int]:
    return next((tokens[:place] for place, token in enumerate(tokens) if token in ends), tokens)


@torch.no_grad()
def test_rows_end_at_different_times(model: Any) -> None:
    wanted = [alone(model, prompt) for prompt in PROMPTS]
    ends = {wanted[0][2], wanted[2][4]}  # some rows end, others don't, and they leave the batch
    passes: list[list[int]] = []

    @contextmanager
    def watch(rows: Sequence[int]) -> Iterator[None]:
        passes.append(list(rows))
        yield

    assert Batch(model, PROMPTS, watch).answers(LIMIT, ends) == [until(each, ends) for each in wanted]
    assert passes[0] == [0, 1, 2, 3] and len(passes[-1]) < 4
    assert Batch(model, PROMPTS).answers(1, set()) == [each[:1] for each in wanted]
    assert Batch(model, PROMPTS[:1]).answers(LIMIT, {wanted[0][0]}) == [[]]


@torch.no_grad()
def test_an_end_that_comes_too_early(model: Any) -> None:
    first = {alone(model, prompt)[0] for prompt in PROMPTS}

    def instead(said: list[int]) -> int | None:
        return None if said else 9

    answers = Batch(model, PROMPTS).answers(3, first, instead)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        assert answer == [9, *until(alone(model, [*prompt, 9]), first)][:3]


@torch.no_grad()
def test_losses_leave_the_batch_as_it_was(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    responses = [[4], [5, 6, 2], [9, 2], [3, 3, 3, 2]]
    monkeypatch.setattr("meteora_rs.evaluate.greedy.KEPT", 8)  # the logits of two at a time
    batch = Batch(model, PROMPTS)
    for prompt, response, (nats, count) in zip(PROMPTS, responses, batch.losses(responses), strict=True):
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].double()
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(response), reduction="sum")
        assert nats == pytest.approx(float(expected), rel=1e-4)
        assert count == len(response)
    assert batch.answers(LIMIT, set()) == [alone(model, prompt) for prompt in PROMPTS]
