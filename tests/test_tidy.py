"""The house as its own documents describe it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "rust/cuda/src", "rust/cuda/build", "rust/core/src", "rust/core/src/tiers",
           "rust/python/src", "rust/core/src/peft", "rust/core/src/kernel",
           "rust/python/src/torch", "python/meteora_rs", "python/meteora_rs/ops",
           "python/meteora_rs/handle", "python/meteora_rs/tiers", "python/meteora_rs/evaluate",
           "python/meteora_rs/importing", "python/meteora_rs/gates/fit", "python/meteora_rs/gates/train",
           "tests")  # fmt: skip


def test_the_architecture_page_names_only_what_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([\w./]+(?:\.(?:rs|py)|/))`", text))
    assert named
    missing = {name for name in named if not any((ROOT / folder / name).exists() for folder in FOLDERS)}
    assert not missing
    assert all((ROOT / folder).is_dir() for folder in FOLDERS)


def test_every_module_says_what_it_is() -> None:
    sources = [*(ROOT / "python").rglob("*.py"), *(ROOT / "rust").glob("*/src/**/*.rs")]
    silent = [
        str(path.relative_to(ROOT))
        for path in sources
        if not path.read_text().startswith(('"""', "//!")) and path.read_text().strip()
    ]
    assert not silent
