"""The answer ends in the right number."""

from __future__ import annotations

import re
from decimal import Decimal

from .accuracy import Accuracy

# A minus counts unless it stands between two numbers or words: "10-5" ends in 5.
_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_MARK = re.compile(r"the answer is|####", re.IGNORECASE)


class Number(Accuracy):
    """Right if both have the same value: the number after the last "The answer is" or "####", else the last one."""

    def right(self, answer: str, reference: str) -> bool:
        """Whether they do."""
        said = final_number(answer)
        return said is not None and said == final_number(reference)


def final_number(text: str) -> Decimal | None:
    """The number that `text` arrives at, thousands' commas and units aside; `None` if there is none."""
    *_, mark = [None, *_MARK.finditer(text)]
    found = _NUMBER.findall(text[mark.end() :])[:1] if mark else []
    found = found or _NUMBER.findall(text)[-1:]
    return Decimal(found[0].replace(",", "")) if found else None
