"""Bundles: what is saved comes back, in any model dtype, and nothing is overwritten that is no bundle."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from meteora_rs import AdapterRecord, Meteora, MeteoraConfig, attach, attach_pretrained
from meteora_rs.bundles.exchange import exchange
from meteora_rs.bundles.manifest import MANIFEST
from meteora_rs.errors import AdapterFormatError, AdapterNotFoundError, MeteoraError
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model


def saved(folder: Path, pool_rank: int = 16, dtype: torch.dtype = torch.float32, **config: Any) -> Meteora:
    """Two float32 adapters in pools that they fill, saved from a model of `dtype`."""
    model = tiny_model().to(dtype)
    meteora = attach(model, MeteoraConfig(max_adapters=2, pool_rank=pool_rank))
    for seed, name in enumerate(("math", "law")):
        meteora.load_adapter(adapter(model, 8, seed=seed, **config), name, gate=gate_rows(meteora, seed))
    meteora.save_pretrained(folder)
    return meteora


def weights(meteora: Meteora, folder: Path) -> dict[str, bytes]:
    meteora.save_pretrained(folder)
    return {p.parent.name: p.read_bytes() for p in folder.glob("adapters/*/adapter_model.safetensors")}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_full_pool_fits_a_model_of_another_dtype(tmp_path: Path, dtype: torch.dtype, old: bool) -> None:
    before = saved(tmp_path / "one")
    if old:  # bundles did not always say what their rank rows are counted in
        path = tmp_path / "one" / MANIFEST
        data = json.loads(path.read_text())
        assert data.pop("element_size") == 4
        path.write_text(json.dumps(data))
    after = attach_pretrained(tiny_model().to(dtype), tmp_path / "one")
    assert after.config.pool_rank == 16 * 4 // dtype.itemsize
    assert weights(after, tmp_path / "two") == weights(before, tmp_path / "three")
    if dtype == torch.float32:
        assert equal(logits(after.model, prompt()), logits(before.model, prompt()))


def test_one_from_a_narrow_model_fits_a_wide_one(tmp_path: Path) -> None:
    saved(tmp_path / "one", pool_rank=32, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "one" / MANIFEST).read_text())["element_size"] == 2
    after = attach_pretrained(tiny_model(), tmp_path / "one")
    assert after.config.pool_rank == 32 and after.stats().rank_rows.live == 16


@pytest.mark.parametrize(("key", "value"), [("gate", "tensor"), ("gate", None), ("pinned", "no")])
def test_what_no_adapter_can_be_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    saved(tmp_path)
    path = tmp_path / MANIFEST
    data = json.loads(path.read_text())
    data["adapters"][0][key] = value
    path.write_text(json.dumps(data))
    with pytest.raises(AdapterFormatError, match=f"{key} {value!r}"):
        attach_pretrained(tiny_model(), tmp_path)


def test_everybody_may_read_it(tmp_path: Path) -> None:
    saved(tmp_path / "bundle")
    for path in (tmp_path / "bundle").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path


@pytest.mark.parametrize("size", [3, "4", 4.0, None])
def test_a_wrong_element_size_is_refused(tmp_path: Path, size: Any) -> None:
    saved(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "element_size": size}))
    with pytest.raises(AdapterFormatError, match="element_size"):
        attach_pretrained(tiny_model(), tmp_path)


def test_an_old_bundle_is_replaced_whole(tmp_path: Path) -> None:
    meteora = saved(tmp_path / "bundle")
    meteora.unload_adapter("law")
    meteora.save_pretrained(tmp_path / "bundle")
    assert [each.name for each in (tmp_path / "bundle" / "adapters").iterdir()] == ["math"]
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_one_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = tmp_path / "one", tmp_path / "other"
    for alpha, folder in enumerate(folders):
        saved(folder, lora_alpha=8 << alpha)  # all that has a hash is equal
    assert len({(folder / MANIFEST).read_text() for folder in folders}) == 1
    load = Meteora.load_adapter

    def replaced(meteora: Meteora, *args: Any, **options: Any) -> AdapterRecord:
        monkeypatch.undo()
        exchange(*folders)
        return load(meteora, *args, **options)

    monkeypatch.setattr(Meteora, "load_adapter", replaced)
    model = tiny_model()
    with pytest.raises(AdapterFormatError, match="replaced while it was read"):
        attach_pretrained(model, folders[0])
    attach_pretrained(model, folders[0]).detach()


def test_a_link_is_followed(tmp_path: Path) -> None:
    meteora = saved(tmp_path / "real")
    meteora.unload_adapter("law")
    (tmp_path / "link").symlink_to("real")
    meteora.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert [each.name for each in (tmp_path / "real" / "adapters").iterdir()] == ["math"]
    (tmp_path / "dangling").symlink_to("new")
    meteora.save_pretrained(tmp_path / "dangling")
    assert (tmp_path / "new" / MANIFEST).is_file() and (tmp_path / "dangling").is_symlink()


@pytest.mark.parametrize("folder", [".", "..", "here/.."])
def test_the_working_directory_is_not_replaced(
    loaded: Meteora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(MeteoraError, match="working directory"):
        loaded.save_pretrained(folder)
    loaded.save_pretrained("bundle")
    assert sorted(each.name for each in Path.cwd().iterdir()) == ["bundle", "here"]


@pytest.mark.parametrize("kind", ["a file", "another folder", "a bundle with notes"])
def test_what_is_no_bundle_is_left_alone(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    meteora = saved(target)
    if kind == "a file":
        target = target / MANIFEST
    elif kind == "another folder":
        (target / MANIFEST).unlink()
    else:
        (target / "notes.md").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(MeteoraError, match="choose a"):
        meteora.save_pretrained(target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_adapters_stay_while_they_are_written(loaded: Meteora, tmp_path: Path) -> None:
    stop = threading.Event()
    sources = [adapter(loaded.model, 4, seed=seed) for seed in (1, 2)]
    failed = []

    def change() -> None:
        turn = 0
        try:
            while not stop.is_set():
                loaded.unload_adapter("math")
                loaded.load_adapter(sources[turn % 2], "math", gate=gate_rows(loaded, turn))
                turn += 1
        except AdapterNotFoundError as error:  # nobody else unloads
            failed.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(6):
            loaded.save_pretrained(tmp_path / "bundle")
            attach_pretrained(tiny_model(), tmp_path / "bundle")
    finally:
        stop.set()
        thread.join()
    assert not failed
