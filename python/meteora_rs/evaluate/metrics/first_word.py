"""The answer begins as the reference does: yes or no, with whatever reasons after it."""

from __future__ import annotations

import re

from .accuracy import Accuracy

_WORD = re.compile(r"\w+")


class FirstWord(Accuracy):
    """Right if answer and reference begin with the same word; "Nothing …" is no "no"."""

    def right(self, answer: str, reference: str) -> bool:
        """Whether they do."""
        said, wanted = _WORD.search(answer), _WORD.search(reference)
        return said is not None and wanted is not None and said[0].casefold() == wanted[0].casefold()
