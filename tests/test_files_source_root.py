"""Adapters beneath a root: no path leads out of it, and nothing is fetched."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import huggingface_hub
import meteora_rs
import pytest
from meteora_rs import Meteora, MeteoraConfig
from meteora_rs.errors import AdapterFormatError
from tiny import adapter, equal, logits, prompt, write
from transformers import PreTrainedModel

TENSORS = "adapter_model.safetensors"


@pytest.fixture
def root(tmp_path: Path, model: PreTrainedModel) -> Path:
    """A root with `tenant/math` in it and `secret` beside it."""
    write(adapter(model, seed=1), tmp_path / "root" / "tenant" / "math")
    write(adapter(model, seed=2), tmp_path / "secret")
    return tmp_path / "root"


@pytest.fixture
def rooted(model: PreTrainedModel, root: Path) -> Meteora:
    return meteora_rs.attach(model, MeteoraConfig(adapter_root=root))


def test_paths_are_relative_to_the_root(rooted: Meteora, root: Path, tmp_path: Path, monkeypatch: object) -> None:
    rooted.load_adapter("tenant/math", "a")
    rooted.load_adapter(root / "tenant" / "math", "b")
    rooted.load_adapter(str(root / "tenant" / "math"), "c")
    rooted.load_adapter(adapter(rooted.model, seed=1), "memory")
    with rooted.routing(["a", "b", "memory"]):
        out = logits(rooted.model, prompt(1).repeat(3, 1))
    assert equal(out[0], out[1]) and equal(out[0], out[2])


@pytest.mark.parametrize("path", ["../secret", "tenant/../../secret", "out", "absolute", "tenant/linked"])
def test_nothing_leads_out(rooted: Meteora, root: Path, path: str) -> None:
    (root / "out").symlink_to("../secret")
    (root / "absolute").symlink_to(root.parent / "secret")
    (root / "tenant" / "linked").mkdir()
    for file in ("adapter_config.json", TENSORS):
        (root / "tenant" / "linked" / file).symlink_to(root.parent / "secret" / file)
    with pytest.raises(PermissionError, match="leads out of the adapter root"):
        rooted.load_adapter(path, "new")
    with pytest.raises(PermissionError, match="leads out of the adapter root"):
        rooted.load_adapter(root.parent / "secret", "new")
    assert rooted.adapters() == []


def test_nothing_is_fetched(rooted: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    for place in ("someone/adapter", "adapter", "~/adapter"):
        with pytest.raises(FileNotFoundError):
            rooted.load_adapter(place, "new")


def test_a_folder_exchanged_for_a_link_all_the_time(rooted: Meteora, root: Path, model: PreTrainedModel) -> None:
    """Whatever a load finds, it is the root's own adapter or an error, never what lies outside."""
    stop = threading.Event()
    real, link = root / "real", root / "link"
    os.rename(root / "tenant" / "math", real)
    link.symlink_to(root.parent / "secret")
    place = root / "tenant" / "math"

    def exchange() -> None:
        while not stop.is_set():
            os.rename(real, place)
            os.rename(place, real)
            os.rename(link, place)
            os.rename(place, link)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        rooted.load_adapter(adapter(model, seed=1), "own")
        for _ in range(300):
            try:
                rooted.load_adapter("tenant/math", "new")
            except (OSError, AdapterFormatError):
                continue
            with rooted.routing(["new", "own"]):
                out = logits(model, prompt(1).repeat(2, 1))
            assert equal(out[0], out[1])
            rooted.unload_adapter("new")
    finally:
        stop.set()
        thread.join()


def test_a_root_that_is_none(model: PreTrainedModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        meteora_rs.attach(model, MeteoraConfig(adapter_root=tmp_path / "nowhere"))
    meteora_rs.attach(model).detach()
