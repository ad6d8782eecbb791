"""Where an adapter may come from, and what is said of places where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from meteora_rs import Meteora, MeteoraConfig, attach
from meteora_rs.errors import AdapterFormatError, AdapterUnsupportedError
from safetensors.torch import save_file
from tiny import adapter, equal, logits, prompt, tiny_model, write
from torch import Tensor
from transformers import PreTrainedModel

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def source() -> dict[str, Any]:
    return adapter(tiny_model(), 4)


def named(meteora: Meteora, name: str) -> Tensor:
    with meteora.routing(name):
        return logits(meteora.model, prompt())


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".x", "-rf", "a..b", "__base__", "a b", "a\0b", "ü", "n" * 129],
)  # fmt: skip
def test_names_are_names_only(loaded: Meteora, name: str) -> None:
    with pytest.raises(AdapterFormatError, match="a name has 1 to 128 characters"):
        loaded.load_adapter(source(), name)
    with pytest.raises(AdapterFormatError):
        loaded.reload_adapter(name, source())


@pytest.mark.parametrize("missing", [CONFIG, TENSORS])
def test_a_missing_file(loaded: Meteora, tmp_path: Path, missing: str) -> None:
    folder = write(source(), tmp_path / "it")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        loaded.load_adapter(folder, "new")
    assert caught.value.filename == str(folder / missing)


def test_pickled_tensors_are_never_read(loaded: Meteora, tmp_path: Path) -> None:
    folder = write(source(), tmp_path / "it")
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterUnsupportedError, match="can run code"):
        loaded.load_adapter(folder, "new")


def test_a_file_is_no_folder(loaded: Meteora, tmp_path: Path) -> None:
    folder = write(source(), tmp_path / "it")
    with pytest.raises(NotADirectoryError):
        loaded.load_adapter(folder / TENSORS, "new")


@pytest.mark.parametrize("place", ["./nowhere", "/nowhere", "~/nowhere", "a/b/c", "..", "a\\b", "a b", "a\0b", ""])
def test_a_place_that_is_none(loaded: Meteora, place: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError):
        loaded.load_adapter(place, "new")


def test_a_path_is_no_hub_id(loaded: Meteora, monkeypatch: Any) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(FileNotFoundError, match="no such adapter folder: someone/adapter"):
        loaded.load_adapter(Path("someone/adapter"), "new")


def test_a_hub_id_that_is_not_in_the_cache_when_offline(loaded: Meteora, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no such adapter folder: someone/adapter; .* hub: .*(offline|cache)"):
        loaded.load_adapter("someone/adapter", "new")


def test_a_hub_id_from_the_cache(loaded: Meteora, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--adapter"
    commit = "0123456789abcdef0123456789abcdef01234567"
    write(source(), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    loaded.load_adapter(source(), "memory")
    loaded.unload_adapter("sql")
    loaded.load_adapter("someone/adapter", "hub")
    assert equal(named(loaded, "hub"), named(loaded, "memory"))


@pytest.mark.parametrize("kind", ["folder", "memory", "root"])
def test_only_hub_ids_have_revisions(model: PreTrainedModel, tmp_path: Path, kind: str) -> None:
    folder = write(source(), tmp_path / "it")
    meteora = attach(model, MeteoraConfig(host_bytes=1 << 20, adapter_root=tmp_path if kind == "root" else None))
    place: Any = source() if kind == "memory" else folder
    for change in (
        lambda: meteora.load_adapter(place, "new", revision="x"),
        lambda: meteora.register_adapter(place, "new", revision="x"),
    ):
        with pytest.raises(ValueError, match=r"revision='x' is of a hub id; .* has no revisions"):
            change()
    meteora.load_adapter(place, "new")
    with pytest.raises(ValueError, match="has no revisions"):
        meteora.reload_adapter("new", place, revision="x")


def test_links_are_followed_as_in_the_hubs_cache(loaded: Meteora, tmp_path: Path) -> None:
    folder = write(source(), tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in (CONFIG, TENSORS):
        (tmp_path / "snapshot" / file).symlink_to(folder / file)
    loaded.load_adapter(str(tmp_path / "snapshot"), "new")


def test_a_loaded_adapter_does_not_need_its_source(loaded: Meteora, tmp_path: Path) -> None:
    folder, memory = write(source(), tmp_path / "it"), source()
    loaded.load_adapter(folder, "new")
    before = named(loaded, "new")
    save_file({key: torch.zeros_like(value) for key, value in memory["tensors"].items()}, folder / TENSORS)
    assert equal(named(loaded, "new"), before)
    loaded.reload_adapter("new", memory)
    for value in memory["tensors"].values():
        value.zero_()
    assert equal(named(loaded, "new"), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"config": {}}, {"config": {}, "tensors": {}, "more": 1}, {"config": [], "tensors": {}},
        {"config": {"r": object()}, "tensors": {}}, {"config": "{", "tensors": {}}, {"config": {}, "tensors": None},
        {"config": None, "tensors": {}}, {"config": {}, "tensors": [1]}, {"config": {}, "tensors": {"a": 1}},
        {"config": {}, "tensors": {"a": torch.zeros(2, 2, device="meta")}},
        {"config": {}, "tensors": {"a": torch.zeros(2, 2).to_sparse()}},
    ],
)  # fmt: skip
def test_memory_that_is_no_adapter(loaded: Meteora, wrong: Any) -> None:
    with pytest.raises(AdapterFormatError, match="new"):
        loaded.load_adapter(wrong, "new")


def test_memory_in_other_forms(loaded: Meteora) -> None:
    memory = source()
    loaded.load_adapter(memory, "new")
    expected = named(loaded, "new")
    strided = {key: value.T.contiguous().T.requires_grad_() for key, value in memory["tensors"].items()}
    spelled = {key.replace(".weight", ".default.weight"): value for key, value in memory["tensors"].items()}
    for tensors in (strided, spelled):
        loaded.reload_adapter("new", {"config": memory["config"], "tensors": tensors})
        assert equal(named(loaded, "new"), expected)
