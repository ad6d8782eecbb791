"""The answer has the reference in it."""

from __future__ import annotations

import re

from .accuracy import Accuracy, plain


class Contains(Accuracy):
    """Right if the reference stands in the answer as whole words, case and spaces aside.

    Whole words: "incorrect" does not contain "correct", nor "15" the answer "5".
    """

    def right(self, answer: str, reference: str) -> bool:
        """Whether it does."""
        return re.search(rf"(?<!\w){re.escape(plain(reference))}(?!\w)", plain(answer)) is not None
