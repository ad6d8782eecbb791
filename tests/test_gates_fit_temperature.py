"""The temperature of mixing."""

from __future__ import annotations

import pytest
from meteora_rs.gates.fit.held_out import HeldOut
from meteora_rs.gates.fit.temperature import SHARPEST, choose_temperature
from meteora_rs.routes import Auto
from tiny_numbers import ALPHABETS, attached, example


def held_out() -> HeldOut:
    return HeldOut(attached(), list(ALPHABETS), [example(9, 1)], Auto(), lambda _: None)


def test_without_held_out_texts_there_is_nothing_to_choose_by() -> None:
    assert choose_temperature(held_out(), None, top_k=1, own=1.0) == (1.0, {})


def test_where_no_mixture_helps_the_second_adapter_loses_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(*_: object, top_k: int, temperature: float) -> list[tuple[float, int]]:
        return [(2.0 if top_k == 1 else 2.0 + temperature, 1)]

    monkeypatch.setattr("meteora_rs.gates.fit.held_out.token_losses", losses)
    temperature, tried = choose_temperature(held_out(), 2.0, top_k=1, own=1.0)
    assert temperature == SHARPEST
    assert min(tried, key=lambda name: tried[name]) == "top_k=1"
