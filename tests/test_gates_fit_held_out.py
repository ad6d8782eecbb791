"""The texts that gates, priors and the temperature are tried on, and what the model loses on them."""

from __future__ import annotations

from typing import Any

import pytest
from meteora_rs.gates.fit.held_out import READ, HeldOut, held_out
from meteora_rs.routes import Auto
from tiny_numbers import ALPHABETS, attached, example

NAMES = list(ALPHABETS)
BASE = NAMES.index("__base__")


def test_every_class_has_its_shortest_held_out_texts_tried() -> None:
    examples = [example(READ, 1, 0), example(READ - 1, 1, 1), example(50, 1, 1), example(9, 1, 2, held=False)]
    assert [(each.label, len(each.ids)) for each in held_out(examples)] == [(1, 50), (0, READ)]
    short = [example(10 + place, 1, label) for label in (0, 1) for place in range(4)]
    assert [len(each.ids) for each in held_out(short)] == [10, 10, 11, 11, 12, 12, 13, 13]
    assert [len(each.ids) for each in held_out(short, read=45)] == [10, 10, 11, 11]


def test_a_class_counts_by_the_mean_over_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(_: Any, encoded: list[Any], route: Any, **options: Any) -> list[tuple[float, int]]:
        assert route == Auto() and options == {"top_k": 1, "temperature": None}
        return [(float(len(ids)), 2) for ids, _ in encoded]

    monkeypatch.setattr("meteora_rs.gates.fit.held_out.token_losses", losses)
    texts = [example(4, 1, 0), example(8, 1, 1), example(6, 1, 0)]
    assert HeldOut(attached(), NAMES, texts, Auto(), lambda _: None).routed() == {0: 2.5, 1: 4.0}


def test_what_the_base_gains_by_adapters_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a prior would be chosen for an adapter whose prompts look like those of general texts."""
    monkeypatch.setattr(
        "meteora_rs.gates.fit.held_out.token_losses", lambda _, texts, *__, **___: [(2.0, 1)] * len(texts)
    )
    held = HeldOut(attached(), NAMES, [example(4, 1, label) for label in range(3)], Auto(), lambda _: None)
    assert held.mean({0: 1.0, 1: 3.0, BASE: 0.5}) == held.mean({0: 1.0, 1: 3.0, BASE: 2.0}) == 2.0
    assert held.mean({0: 1.0, 1: 3.0, BASE: 5.0}) == 3.0
    assert held.lost({0: 1.0, 1: 5.0, BASE: 0.5}) == held.lost({0: 2.0, 1: 5.0, BASE: 2.0}) == 1.0
