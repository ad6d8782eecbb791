"""The temperature of mixing, and the texts that it is tried on."""

from __future__ import annotations

import pytest
import torch
from meteora_rs.gates.fit.data import Example
from meteora_rs.gates.fit.temperature import READ, SHARPEST, choose_temperature, held_out
from meteora_rs.routes import Auto
from tiny_numbers import VOCABULARY, attached


def example(length: int, response: int, label: int = 0, held: bool = True) -> Example:
    ids = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return Example(label, tuple(ids), response, (), (), held)


def test_every_class_has_its_shortest_held_out_texts_tried() -> None:
    examples = [example(READ, 1, 0), example(READ - 1, 1, 1), example(50, 1, 1), example(9, 1, 2, held=False)]
    assert [(each.label, len(each.ids)) for each in held_out(examples)] == [(1, 50), (0, READ)]
    short = [example(10 + place, 1, label) for label in (0, 1) for place in range(4)]
    assert [len(each.ids) for each in held_out(short)] == [10, 10, 11, 11, 12, 12, 13, 13]


def test_without_held_out_texts_there_is_nothing_to_choose_by() -> None:
    meteora = attached()
    assert choose_temperature(meteora, [example(9, 1, held=False)], Auto(), print) == (1.0, {})


def test_where_no_mixture_helps_the_second_adapter_loses_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(*_: object, top_k: int, temperature: float) -> list[tuple[float, int]]:
        return [(2.0 if top_k == 1 else 2.0 + temperature, 2)]

    monkeypatch.setattr("meteora_rs.gates.fit.temperature.token_losses", losses)
    temperature, tried = choose_temperature(attached(), [example(9, 1)], Auto(), lambda _: None)
    assert temperature == SHARPEST
    assert min(tried, key=lambda name: tried[name]) == "top_k=1"
