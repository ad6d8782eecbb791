"""Answers on disk: one file of JSON lines for each variant, appended to, so that an evaluation can be resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meteora_rs.errors import MeteoraError


class AnswerFile:
    """What is known of a variant's answers, by key; a header says which model, adapters and gates gave them.

    Each further line is an object with a `key`; lines with the same key add to each other. A line that a crash has
    cut short is dropped.

    Raises:
        MeteoraError: the file holds answers of another origin, or is no such file.
        OSError: it can't be read or written.
    """

    def __init__(self, folder: Path, variant: str, fingerprint: str) -> None:
        self.path = folder / f"{quote(variant, safe='=,:. ')}.jsonl"
        self._header = {"variant": variant, "fingerprint": fingerprint}
        self._known: dict[str, dict[str, Any]] = {}
        if self.path.exists() and self.path.stat().st_size:
            self._read()
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self._header) + "\n", encoding="utf-8")

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        try:
            header, *lines = [json.loads(line) for line in whole.splitlines()]
            for line in lines:
                self._known.setdefault(line["key"], {}).update(line)
        except (ValueError, KeyError, TypeError) as error:
            raise MeteoraError(f"{self.path} is no file of answers ({error!r}); choose another folder") from error
        if header != self._header:
            raise MeteoraError(
                f"{self.path} holds answers of another model, of other adapters or gates, or of another top_k or "
                "temperature; choose another folder, or remove it"
            )
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")

    def get(self, key: str) -> Mapping[str, Any]:
        """What is known for `key`; nothing at first."""
        return self._known.get(key, {})

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Append objects, each with its `key`."""
        with self.path.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=True) + "\n")
        for line in lines:
            self._known.setdefault(line["key"], {}).update(line)
