"""Example prompts: `examples/prompts.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Turn:
    """One prompt, the adapter that knows its task, and the answer that is right, where one is."""

    adapter: str
    prompt: str
    expected: str | None


@dataclass(frozen=True)
class Example:
    """One or more turns; the next turn's prompt follows the answer to the one before."""

    group: str
    turns: tuple[Turn, ...]


def read_examples(path: Path, first_of_each: bool) -> list[Example]:
    """Read all examples, or the first of each group.

    Raises:
        OSError: the file can't be read.
    """
    document = json.loads(path.read_text(encoding="utf-8"))
    examples = [Example(e["group"], tuple(Turn(**turn) for turn in e["turns"])) for e in document["prompts"]]
    if not first_of_each:
        return examples
    return list({example.group: example for example in reversed(examples)}.values())[::-1]
