"""The page on tiers: its Python runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
from tiny import adapter, prompt, write
from transformers import PreTrainedModel

PAGE = (Path(__file__).parents[1] / "docs" / "tiers.md").read_text()


def test_its_python_runs(model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("math", "law", "sql")):
        write(adapter(model, seed=seed), tmp_path / "adapters" / name)
    monkeypatch.chdir(tmp_path)
    inputs = {"input_ids": prompt(), "max_new_tokens": 1}
    names: dict[str, Any] = {"meteora_rs": meteora_rs, "MeteoraConfig": meteora_rs.MeteoraConfig, "Path": Path}
    names |= {"model": model, "inputs": inputs}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/tiers.md", "exec"), names)
    asyncio.run(names["answer"]("sql"))
    assert len(names["meteora"].registered_adapters()) == 3
