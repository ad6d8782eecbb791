"""Two folders take each other's name, in one step or in three, or stay as they were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from meteora_rs.bundles import exchange
from meteora_rs.bundles.exchange import exchange as exchanged


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
        (folder / folder.name).touch()
    return new, old


def inside(*folders: Path) -> list[str]:
    assert len(list(folders[0].parent.iterdir())) == 2
    return [each.name for folder in folders for each in folder.iterdir()]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has the one step")
def test_in_one_step(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Path, "rename")
    exchanged(*folders)
    assert inside(*folders) == ["old", "new"]


@pytest.mark.parametrize("fails", [None, OSError, KeyboardInterrupt, "late"])
def test_in_three(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, fails: Any) -> None:
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path != folders[0] or fails is None:
            return rename(path, target)
        if fails != "late":
            raise fails
        rename(path, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(exchange, "_in_one_step", lambda *_: False)
    monkeypatch.setattr(Path, "rename", renamed)
    if fails is None:
        exchanged(*folders)
    else:
        with pytest.raises(KeyboardInterrupt if fails == "late" else fails):
            exchanged(*folders)
    assert inside(*folders) == (["old", "new"] if fails in (None, "late") else ["new", "old"])


def test_one_that_is_missing(folders: tuple[Path, Path]) -> None:
    with pytest.raises(FileNotFoundError):
        exchanged(folders[0].with_name("nowhere"), folders[1])
    assert inside(*folders) == ["new", "old"]
