"""The page on hot loading: its Python runs, and its table has every error."""

from __future__ import annotations

import re
from pathlib import Path

import meteora_rs
import pytest
from meteora_rs import Meteora, Stats, errors
from tiny import adapter, prompt, write

PAGE = (Path(__file__).parents[1] / "docs" / "hot-loading.md").read_text()


def test_its_python_runs(loaded: Meteora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(adapter(loaded.model, seed=9), tmp_path / "math-v2")
    monkeypatch.chdir(tmp_path)
    loaded.set_alias("prod", "math")
    inputs = {"input_ids": prompt(), "max_new_tokens": 1}
    names = {**vars(meteora_rs), "meteora": loaded, "model": loaded.model, "inputs": inputs}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/hot-loading.md", "exec"), names)
    assert loaded.aliases() == {"prod": "law"}


def test_its_table_has_every_error() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes <= set(re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE))


def test_what_it_calls_exists() -> None:
    called = set(re.findall(r"`(\w+)\(", PAGE)) - {"routing", "Auto"}
    called |= {"aload_adapter", "areload_adapter", "aunload_adapter", "save_pretrained", "fit_gates", "routing"}
    missing = {name for name in called if not hasattr(Meteora, name) and not hasattr(Stats, name)}
    assert not missing
