"""Which texts a fit keeps for adapters that come later."""

from __future__ import annotations

from meteora_rs import BASE
from meteora_rs.gates.fit.data import Example
from meteora_rs.gates.fit.keep import TOKENS, kept_texts
from meteora_rs.gates.kept import KeptText


def example(length: int, held_out: bool) -> Example:
    return Example(7, tuple(range(length)), length // 2, (), (), held_out)


def test_texts_that_never_taught_come_first_and_the_shortest_of_them() -> None:
    examples = [example(10, False), example(TOKENS // 2, True), example(TOKENS // 4, True), example(TOKENS, True)]
    assert [len(text.ids) for text in kept_texts(examples, 3, "math")] == [TOKENS // 4, TOKENS // 2]
    assert [len(text.ids) for text in kept_texts(examples, 3, BASE)] == [TOKENS // 4, TOKENS // 2, TOKENS, 10]
    assert kept_texts(examples[:1], 3, "math") == [KeptText(3, tuple(range(10)), 5)]


def test_one_text_is_kept_however_long() -> None:
    assert len(kept_texts([example(TOKENS + 1, False)], 0, "math")) == 1
