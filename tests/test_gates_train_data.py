"""Texts in training order."""

from __future__ import annotations

from collections import Counter

import pytest
from meteora_rs.gates.train.data import IGNORED, BalancedExamples, Example, collate, make_examples
from tiny_numbers import Numbers


def classes() -> list[list[Example]]:
    return [[Example((1,) * (2 + i), 1, label) for i in range(count)] for label, count in enumerate((3, 30, 7))]


def test_every_class_is_drawn_as_often_as_any_other() -> None:
    order = BalancedExamples(classes(), steps=21, batch=10, seed=0)
    assert len(order) == 210
    assert Counter(order[i].label for i in range(210)) == {0: 70, 1: 70, 2: 70}
    assert Counter(order[i].ids for i in range(210) if order[i].label == 1).most_common()[-1][1] == 2  # of 70 / 30


def test_one_seed_one_order_and_more_steps_go_on_with_it() -> None:
    first, second = (BalancedExamples(classes(), steps=steps, batch=6, seed=3) for steps in (4, 9))
    assert [first[i] for i in range(24)] == [second[i] for i in range(24)]
    other = BalancedExamples(classes(), steps=4, batch=6, seed=4)
    assert [first[i] for i in range(24)] != [other[i] for i in range(24)]


def test_long_texts_of_a_step_come_first() -> None:
    order = BalancedExamples(classes(), steps=3, batch=8, seed=0)
    for step in range(3):
        lengths = [len(order[8 * step + i].ids) for i in range(8)]
        assert lengths == sorted(lengths, reverse=True)


def test_pads_stand_on_the_left_and_have_no_target() -> None:
    batch = collate([Example((5, 6, 7, 8), 3, 1), Example((9, 4), 1, 0)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [0, 0, 9, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert batch["targets"].tolist() == [[6, 7, 8], [IGNORED, IGNORED, 4]]
    assert batch["labels"].tolist() == [1, 0]


def test_texts_and_pairs() -> None:
    made = make_examples({"a": ["1 2 3", "7"], "b": [("1 2", "3 4"), ("", "5 6")]}, Numbers(), 16)
    assert made == [
        [Example((1, 2, 3), 2, 0)],
        [Example((1, 2, 3, 4), 2, 1), Example((5, 6), 1, 1)],
    ]
    with pytest.raises(ValueError, match="'a' has no text"):
        make_examples({"a": ["7"]}, Numbers(), 16)
    with pytest.raises(ValueError, match="'a': a list of texts"):
        make_examples({"a": "7 8"}, Numbers(), 16)
