"""The general text that comes with the package: what no adapter should touch."""

from __future__ import annotations

import json
from importlib.resources import files


def general_texts() -> list[tuple[str, str]]:
    """168 (prompt, response) pairs on all sorts of subjects, most of them short, in several prompt formats."""
    lines = files(__package__).joinpath("general.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [(item["prompt"], item["response"]) for item in map(json.loads, lines)]
