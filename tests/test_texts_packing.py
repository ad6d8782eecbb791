"""Batches of texts: each text once, within the budgets, longest first."""

from __future__ import annotations

import pytest
from meteora_rs.texts.packing import KEPT, packed

LENGTHS = [3, 50, 7, 7, 20, 1, 49]


@pytest.mark.parametrize("tokens", [1, 21, 60, 1000])
def test_every_text_once_and_within_the_budget(tokens: int) -> None:
    batches = list(packed(LENGTHS, tokens))
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(LENGTHS)))
    assert [LENGTHS[index] for index in order] == sorted(LENGTHS, reverse=True)
    assert all(len(batch) == 1 or len(batch) * LENGTHS[batch[0]] <= tokens for batch in batches)


def test_kept_tokens_have_a_budget_of_their_own() -> None:
    kept = [1, KEPT // 2, 1, 1, 1, 1, KEPT * 2]
    batches = list(packed(LENGTHS, 1000, kept=kept))
    assert batches == [[1], [6], [4, 2, 3, 0, 5]]
    assert list(packed([], 10)) == []
