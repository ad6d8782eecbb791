"""The loss that routing is judged by, and the texts that the temperature is tried on."""

from __future__ import annotations

import pytest
import torch
from meteora_rs.gates.fit.data import Example
from meteora_rs.gates.fit.loss import BATCH_TOKENS, losses_of
from meteora_rs.gates.fit.temperature import READ, SHARPEST, choose_temperature, held_out
from meteora_rs.routes import Auto
from tiny_numbers import VOCABULARY, attached


def example(length: int, response: int, label: int = 0, held: bool = True) -> Example:
    ids = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return Example(label, tuple(ids), response, (), (), held)


def test_is_the_mean_over_the_responses_tokens_alone_whatever_the_batch() -> None:
    meteora = attached()
    examples = [example(9, 4), example(30, 29), example(BATCH_TOKENS // 2, 0), example(12, 0), example(5, 5)]
    found = losses_of(meteora, examples, "first")
    for each, loss in zip(examples, found, strict=True):
        first = min(max(1, each.response), len(each.ids) - 1)
        with torch.no_grad(), meteora.routing("first"):
            logits = meteora.model(input_ids=torch.tensor([each.ids])).logits[0]
        chances = logits.log_softmax(-1)
        own = [-chances[place - 1, each.ids[place]].item() for place in range(first, len(each.ids))]
        assert loss == pytest.approx(sum(own) / len(own), rel=1e-4)


def test_every_class_has_its_shortest_held_out_texts_tried() -> None:
    examples = [example(READ, 1, 0), example(READ - 1, 1, 1), example(50, 1, 1), example(9, 1, 2, held=False)]
    assert [(each.label, len(each.ids)) for each in held_out(examples)] == [(1, 50), (0, READ)]
    short = [example(10 + place, 1, label) for label in (0, 1) for place in range(4)]
    assert [len(each.ids) for each in held_out(short)] == [10, 10, 11, 11, 12, 12, 13, 13]


def test_without_held_out_texts_there_is_nothing_to_choose_by() -> None:
    meteora = attached()
    assert choose_temperature(meteora, [example(9, 1, held=False)], Auto(), print) == (1.0, {})


def test_where_no_mixture_helps_the_second_adapter_loses_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(*_: object, top_k: int, temperature: float) -> list[float]:
        return [1.0 if top_k == 1 else 1.0 + temperature]

    monkeypatch.setattr("meteora_rs.gates.fit.temperature.losses_of", losses)
    temperature, tried = choose_temperature(attached(), [example(9, 1)], Auto(), lambda _: None)
    assert temperature == SHARPEST
    assert min(tried, key=lambda name: tried[name]) == "top_k=1"
