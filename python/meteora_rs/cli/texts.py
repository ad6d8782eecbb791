"""Files of texts for fitting gates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from meteora_rs.errors import MeteoraError

Text: TypeAlias = str | tuple[str, str]


def read_classes(items: Sequence[str], limit: int | None) -> dict[str, list[Text]]:
    """Read `NAME=FILE` items, the first `limit` texts of each file.

    Raises:
        MeteoraError: an item, or a line of a file, has another form; the message has the file and line.
        OSError: a file can't be read.
    """
    data: dict[str, list[Text]] = {}
    for item in items:
        name, equals, path = item.partition("=")
        if not equals:
            raise MeteoraError(f"--texts {item!r}: expected NAME=FILE")
        data[name] = read_texts(Path(path), limit)
    return data


def read_texts(path: Path, limit: int | None = None) -> list[Text]:
    """Read a file of JSON lines: strings, {"text": …} or {"prompt": …, "response": …}.

    Raises:
        MeteoraError: a line is none of these.
        OSError: the file can't be read.
    """
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return [_text(line, f"{path}, line {number}") for number, line in enumerate(lines[:limit], 1)]


def _text(line: str, place: str) -> Text:
    try:
        item: Any = json.loads(line)
    except ValueError as error:
        raise MeteoraError(f"{place}: not JSON ({error})") from error
    if isinstance(item, dict):
        if isinstance(item.get("text"), str):
            item = item["text"]
        elif isinstance(item.get("prompt"), str) and isinstance(item.get("response"), str):
            return (item["prompt"], item["response"])
    if not isinstance(item, str):
        raise MeteoraError(f'{place}: expected a string, {{"text": …}} or {{"prompt": …, "response": …}}')
    return item
