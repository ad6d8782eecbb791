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


@pytest.mark.parametrize(
    ("best", "chosen", "tried"),
    [
        (0.0, SHARPEST, ["0.25"]),
        (0.25, 0.25, ["0.25", "0.5"]),
        (0.5, 0.5, ["0.25", "0.5", "1"]),
        (9.0, 1.0, ["0.25", "0.5", "1"]),
    ],
)
def test_it_is_raised_as_long_as_the_loss_falls(
    monkeypatch: pytest.MonkeyPatch, best: float, chosen: float, tried: list[str]
) -> None:
    def losses(*_: object, top_k: int, temperature: float) -> list[tuple[float, int]]:
        return [(2.0 if top_k == 1 else 2.0 + abs(temperature - best), 1)]

    monkeypatch.setattr("meteora_rs.gates.fit.held_out.token_losses", losses)
    temperature, found = choose_temperature(held_out(), 2.0 + best, top_k=1, own=1.0)
    assert temperature == chosen and list(found) == ["top_k=1", *tried]
