"""Splitting answers to several questions."""

from __future__ import annotations

import pytest
from meteora_rs.evaluate.composite import has_begun, item_lines, references, split_answer, split_texts


@pytest.mark.parametrize(
    "text, answers",
    [
        ("1. red\n2. blue\n3. yes", ["red", "blue", "yes"]),
        ("\n\n1. red\n\n 2. blue\n3.\tyes\n", ["red", "blue", "yes"]),
        ("1. red\n3. yes", ["red", "", "yes"]),
        ("red\n2. blue", ["", "blue", ""]),
        ("1. born in 1991. She knew 2. too\n3. of it", ["born in 1991. She knew 2. too", "", "of it"]),
        ("1. a\n3. of it\n2. late", ["a\n3. of it", "late", ""]),
        ("1. in 1991. \n2. b\n3. c", ["in 1991.", "b", "c"]),
        ("1. a\n1991. was a year\n2. b\n3. c", ["a\n1991. was a year", "b", "c"]),
        ("1. a\n2. list:\n1. one\n2. two\n3. c", ["a", "list:\n1. one\n2. two", "c"]),
        ("1. a\n2.5 plums\n3. c", ["a\n2.5 plums", "", "c"]),
        ("1.\n2. b\n3. c", ["", "b", "c"]),
        ("1. a 2. b 3. c", ["a 2. b 3. c", "", ""]),
        ("", ["", "", ""]),
        ("4. a\n0. b", ["", "", ""]),
    ],
)  # fmt: skip
def test_only_numbers_at_the_start_of_a_line_count(text: str, answers: list[str]) -> None:
    assert split_texts(text, 3) == answers


def test_spans_are_those_of_the_texts() -> None:
    text = "1. red\n2. blue"
    spans = split_answer(text, 3)
    assert spans == [(2, 7), (9, 14), None]


@pytest.mark.parametrize(
    "numbers, lines",
    [
        ([1, 2, 3], [0, 1, 2]),
        ([1, 2, 1, 2, 3, 3], [0, 1, 5]),
        ([1, 5, 2, 3], [0, 2, 3]),
        ([1, 2, 9, 3], [0, 1, 3]),
        ([*range(1, 10), *range(2, 11), 10], [*range(9), 18]),  # "9. 1. one", "2. two", … "10. ten", then the item 10
        ([1, 2, 3, 1, 2, 3], [0, 1, 2]),  # goes on after the end
        ([2, 1, 2], [1, 2]),
        ([], []),
    ],
)
def test_which_lines_begin_an_item(numbers: list[int], lines: list[int]) -> None:
    assert item_lines(numbers) == lines


def test_references() -> None:
    assert references("red@@@@\nblue line@@@@\nyes") == ["red", "blue line", "yes"]


def test_an_item_has_begun_with_its_number() -> None:
    assert has_begun("1. a\n2.", 2) and has_begun("3. c", 2)
    assert not has_begun("1. in 2. b", 2) and not has_begun("1. a\n", 2)
