"""Folders in the cache appear whole or not at all."""

import threading
import time
from pathlib import Path

import pytest
from meteora_rs.samples.cache import build_once, cache_folder


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("METEORA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "meteora-rs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "meteora-rs"
    monkeypatch.setenv("METEORA_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_built_once(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "weights").write_text("w")

    for _ in range(2):
        assert (build_once(tmp_path / "a" / "model", build) / "weights").read_text() == "w"
    assert len(calls) == 1
    assert visible(tmp_path / "a") == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("h")
        raise error

    with pytest.raises(error):
        build_once(tmp_path / "model", build)
    assert visible(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".partial-model-x1"
    left.mkdir()
    (left / "half").write_text("h")
    build_once(tmp_path / "model", lambda folder: None)
    assert visible(tmp_path) == ["model"]


def test_two_at_once_build_once(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        time.sleep(0.1)

    threads = [threading.Thread(target=build_once, args=(tmp_path / "model", build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
