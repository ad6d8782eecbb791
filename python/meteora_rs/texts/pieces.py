"""A token's own text, which its neighbours may be needed for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def decode_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; a token that ends inside a character adds nothing until it is whole."""
    pieces: list[str] = []
    done = ""
    for count in range(1, len(ids) + 1):
        text: str = tokenizer.decode(list(ids[:count]), skip_special_tokens=True)
        stable = text if not text.endswith("\N{REPLACEMENT CHARACTER}") else done
        pieces.append(stable[len(done) :])
        done = stable
    return pieces
