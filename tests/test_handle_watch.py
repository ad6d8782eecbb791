"""A folder of adapters is followed: new, changed, gone, broken and half-written ones."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import meteora_rs
import pytest
from meteora_rs import Meteora, MeteoraConfig
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, CapacityError
from tiny import adapter, write
from transformers import PreTrainedModel

INTERVAL = 0.05


@pytest.fixture
def meteora(model: PreTrainedModel) -> Iterator[Meteora]:
    """Room for two adapters."""
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=2, pool_rank=16))
    yield meteora
    meteora.detach()


def until(said: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end
        time.sleep(0.005)


def names(meteora: Meteora) -> list[str]:
    return sorted(record.name for record in meteora.adapters())


def put(model: PreTrainedModel, folder: Path, name: str, seed: int) -> Path:
    """Write an adapter beside the watched folder and rename it into place, over the old one if there is one."""
    whole = write(adapter(model, 4, seed=seed), folder / f".{name}.new")
    if (folder / name).exists():
        shutil.move(folder / name, folder / f".{name}.old")
    whole.rename(folder / name)
    shutil.rmtree(folder / f".{name}.old", ignore_errors=True)
    return folder / name


def test_new_changed_and_gone(meteora: Meteora, model: PreTrainedModel, tmp_path: Path) -> None:
    put(model, tmp_path, "a", 1)
    time.sleep(INTERVAL)
    with meteora.watch(tmp_path, interval=INTERVAL) as watch:
        assert names(meteora) == ["a"]
        put(model, tmp_path, "b", 2)
        until(lambda: names(meteora) == ["a", "b"])
        before = {record.name: (record.id, record.generation) for record in meteora.adapters()}
        put(model, tmp_path, "a", 3)
        until(lambda: meteora.adapter("a").generation > before["a"][1])
        assert meteora.adapter("a").id == before["a"][0]
        assert meteora.adapter("b").generation == before["b"][1]
        shutil.rmtree(tmp_path / "b")
        until(lambda: names(meteora) == ["a"])
        assert watch.errors == {}
    put(model, tmp_path, "c", 4)
    time.sleep(4 * INTERVAL)
    assert names(meteora) == ["a"]


def test_a_folder_is_taken_when_it_is_whole_and_at_rest(
    meteora: Meteora, model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, start, now = write(adapter(model, 4, seed=1), tmp_path / "elsewhere"), time.time(), [0.0]
    # No file looks old, and how long it has rested is told by this test, however slow the machine is.
    monkeypatch.setattr("meteora_rs.handle.watch.time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: start))
    folder = tmp_path / "watched"
    (folder / "a").mkdir(parents=True)
    with meteora.watch(folder, interval=1.0) as watch:
        shutil.copy(source / "adapter_config.json", folder / "a")
        weights = (source / "adapter_model.safetensors").read_bytes()
        with open(folder / "a" / "adapter_model.safetensors", "wb") as file:
            for part in range(8):  # slower than a look, faster than the rest that is asked for
                file.write(weights[part * len(weights) // 8 : (part + 1) * len(weights) // 8])
                file.flush()
                now[0] += 0.9
                watch.scan()
                assert names(meteora) == [] and watch.errors == {}
        now[0] += 2.0
        watch.scan()
        assert names(meteora) == ["a"] and watch.errors == {}


def test_errors_are_kept_until_they_are_mended(
    meteora: Meteora, model: PreTrainedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = put(model, tmp_path, "broken", 1)
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    write(adapter(model, 4), tmp_path / "no name")
    with caplog.at_level(logging.WARNING, "meteora_rs"), meteora.watch(tmp_path, interval=INTERVAL) as watch:
        until(lambda: set(watch.errors) == {"broken", "no name"})
        assert all(isinstance(error, AdapterFormatError) for error in watch.errors.values())
        put(model, tmp_path, "good", 2)
        until(lambda: names(meteora) == ["good"])
        put(model, tmp_path, "broken", 3)
        until(lambda: names(meteora) == ["broken", "good"])
        until(lambda: set(watch.errors) == {"no name"})  # an adapter is live before its error is forgotten
        shutil.rmtree(tmp_path / "no name")
        until(lambda: not watch.errors)
    assert len(caplog.records) == 2  # each once, however often it was looked at


def test_what_cannot_be_done_now_is_tried_again(meteora: Meteora, model: PreTrainedModel, tmp_path: Path) -> None:
    meteora.load_adapter(adapter(model, 4), "mine")
    for seed, name in enumerate(("a", "b", "mine")):
        put(model, tmp_path, name, seed)
    with meteora.watch(tmp_path, interval=INTERVAL) as watch:
        until(lambda: len(watch.errors) == 2)
        loaded = "a" if "b" in watch.errors else "b"
        assert isinstance(watch.errors.pop("b" if loaded == "a" else "a"), CapacityError)
        assert isinstance(watch.errors["mine"], AdapterInUseError)
        meteora.pin_adapter(loaded)
        shutil.rmtree(tmp_path / loaded)
        until(lambda: isinstance(watch.errors.get(loaded), AdapterInUseError))
        shutil.rmtree(tmp_path / "mine")  # not the watch's own: it stays
        meteora.pin_adapter(loaded, False)
        until(lambda: names(meteora) == sorted({"a", "b", "mine"} - {loaded}))
        until(lambda: not watch.errors)


def test_nothing_goes_while_the_folder_cannot_be_read(meteora: Meteora, model: PreTrainedModel, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    put(model, folder, "a", 1)
    with meteora.watch(folder, interval=INTERVAL) as watch:
        until(lambda: names(meteora) == ["a"])
        folder.rename(tmp_path / "away")
        until(lambda: isinstance(watch.errors.get("."), FileNotFoundError))
        assert names(meteora) == ["a"]
        (tmp_path / "away").rename(folder)
        until(lambda: not watch.errors)
        assert names(meteora) == ["a"]


def test_with_a_host_tier_new_ones_are_registered(model: PreTrainedModel, tmp_path: Path) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=1, pool_rank=8, host_bytes=8 << 20))
    for seed, name in enumerate("abc"):
        put(model, tmp_path, name, seed)
    with meteora.watch(tmp_path, interval=INTERVAL) as watch:
        until(lambda: [record.tier for record in meteora.registered_adapters()] == ["host"] * 3)
        meteora.prefetch(["b"])
        put(model, tmp_path, "b", 5)
        put(model, tmp_path, "c", 6)
        generation = meteora.adapter("b").generation
        until(lambda: meteora.adapter("b").generation > generation)
        shutil.rmtree(tmp_path / "a")
        until(lambda: [record.name for record in meteora.registered_adapters()] == ["b", "c"])
        assert not watch.errors


def test_it_ends_with_the_model_it_is_for(model: PreTrainedModel, tmp_path: Path) -> None:
    meteora = meteora_rs.attach(model)
    watch = meteora.watch(tmp_path, interval=INTERVAL)
    meteora.detach()
    watch._thread.join(120)
    assert not watch._thread.is_alive()
    watch.stop()


def test_what_cannot_be_watched(meteora: Meteora, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        meteora.watch(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="interval must be above 0"):
        meteora.watch(tmp_path, interval=0)


def test_descriptors_are_given_back(meteora: Meteora, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        meteora.watch(tmp_path, interval=INTERVAL).stop()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
