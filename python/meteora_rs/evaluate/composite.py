"""Answers to several questions at once: "1. …", "2. …", each on a line of its own."""

from __future__ import annotations

import re

SEPARATOR = "@@@@\n"
"""What joins the answers in the response of a composite item."""

_NUMBERED = re.compile(r"^[ \t]*(\d{1,3})\.(?=\s|$)", re.MULTILINE)


def references(response: str) -> list[str]:
    """The wanted answers."""
    return [part.strip() for part in response.split(SEPARATOR)]


def split_answer(text: str, count: int) -> list[tuple[int, int] | None]:
    """Where each of `count` answers stands in `text`, as (begin, end) after its number; `None` for one left out.

    A number counts only at the start of a line ("… born in 1991. She" has none), from 1 to `count`, and in ascending
    order. Where an answer has a numbered list of its own, the longest ascending run of numbers holds, and among equals
    the one with the lowest numbers. An answer goes on until the next number.
    """
    found = [match for match in _NUMBERED.finditer(text) if 1 <= int(match[1]) <= count]
    run = longest_run([int(match[1]) for match in found])
    spans: list[tuple[int, int] | None] = [None] * count
    for place, index in enumerate(run):
        end = found[run[place + 1]].start() if place + 1 < len(run) else len(text)
        if text[found[index].end() : end].strip():
            spans[int(found[index][1]) - 1] = (found[index].end(), end)
    return spans


def split_texts(text: str, count: int) -> list[str]:
    """The answers themselves, stripped; an empty one for one left out."""
    return [text[span[0] : span[1]].strip() if span else "" for span in split_answer(text, count)]


def longest_run(numbers: list[int]) -> list[int]:
    """The indices of the longest strictly ascending subsequence; among equals, that of the lowest numbers.

    >>> longest_run([1, 2, 1, 2, 3, 3])
    [0, 1, 4]
    """
    best: list[list[int]] = []  # of the runs that end at each index
    for index, number in enumerate(numbers):
        before = [run for run in best if numbers[run[-1]] < number]
        best.append([*_choose(before, numbers), index])
    return _choose(best, numbers)


def _choose(runs: list[list[int]], numbers: list[int]) -> list[int]:
    return min(runs, key=lambda run: (-len(run), [numbers[i] for i in run], run), default=[])
