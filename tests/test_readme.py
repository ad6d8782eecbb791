"""Every Python block of the README runs, in order, in one namespace, against a tiny random model."""

import re
from pathlib import Path

import pytest
from tiny_text import save_adapter, save_model

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README names: `my-llama`, `adapters/math`, `adapters/law`."""
    save_model(tmp_path / "my-llama", README.read_text())
    for seed, name in enumerate(("math", "law")):
        save_adapter(tmp_path / "adapters" / name, tmp_path / "my-llama", seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_blocks_run(checkout: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, Python block {number + 1}", "exec"), names)
    assert (checkout / "bundle").is_dir()
