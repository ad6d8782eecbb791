"""The answer is the reference."""

from __future__ import annotations

from .accuracy import Accuracy, plain


class Exact(Accuracy):
    """Right if answer and reference are the same but for case and spaces."""

    def right(self, answer: str, reference: str) -> bool:
        """Whether they are the same."""
        return plain(answer) == plain(reference)
