"""Answers to several questions at once: "1. …", "2. …", each on a line of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

SEPARATOR = "@@@@\n"
"""What joins the answers in the response of a composite item."""

_NUMBERED = re.compile(r"^[ \t]*(\d{1,3})\.(?=\s|$)", re.MULTILINE)


def references(response: str) -> list[str]:
    """The wanted answers."""
    return [part.strip() for part in response.split(SEPARATOR)]


def split_answer(text: str, count: int) -> list[tuple[int, int] | None]:
    """Where each of `count` answers stands in `text`, as (begin, end) after its number; `None` for one left out.

    A number counts only at the start of a line ("… born in 1991. She" has none), from 1 to `count`, and in ascending
    order; see `item_lines`. An answer goes on until the next number.
    """
    found = [match for match in _NUMBERED.finditer(text) if 1 <= int(match[1]) <= count]
    lines = item_lines([int(match[1]) for match in found])
    spans: list[tuple[int, int] | None] = [None] * count
    for place, index in enumerate(lines):
        end = found[lines[place + 1]].start() if place + 1 < len(lines) else len(text)
        if text[found[index].end() : end].strip():
            spans[int(found[index][1]) - 1] = (found[index].end(), end)
    return spans


def has_begun(text: str, number: int) -> bool:
    """Whether an item of this number, or of a later one, has begun in `text`."""
    return any(int(match[1]) >= number for match in _NUMBERED.finditer(text))


def split_texts(text: str, count: int) -> list[str]:
    """The answers themselves, stripped; an empty one for one left out."""
    return [text[span[0] : span[1]].strip() if span else "" for span in split_answer(text, count)]


def item_lines(numbers: Sequence[int]) -> list[int]:
    """Which of the numbered lines begin an item: for each number in turn the next line that has it.

    An answer may hold a numbered list of its own. So where other numbers stand between an item and the next one's
    candidates, the last candidate is the item: the others are the list's. Numbers that never come are skipped.

    >>> item_lines([1, 2, 1, 2, 3, 3])
    [0, 1, 5]
    """
    chosen: list[int] = []
    for number in sorted(set(numbers)):
        begin = chosen[-1] + 1 if chosen else 0
        candidates = [index for index in range(begin, len(numbers)) if numbers[index] == number]
        if candidates:
            chosen.append(candidates[0] if candidates[0] == begin or not chosen else candidates[-1])
    return chosen
