"""`verify_adapter`: files that are not what is served of them, whatever their stamps say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from meteora_rs import Meteora
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, AdapterNotFoundError, MeteoraError
from meteora_rs.handle import verifying
from tiers_case import live
from tiny import adapter, write


def change_a_byte(folder: Path) -> None:
    """The lowest bit of the last weight; size and time of writing stay."""
    path = folder / "adapter_model.safetensors"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-4 if b"F32" in data else -2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_changed_byte_is_found(meteora: Meteora, tmp_path: Path, dtype: torch.dtype) -> None:
    for seed, name in enumerate(("math", "law")):
        meteora.load_adapter(write(adapter(meteora.model, 3 + seed, seed=seed, dtype=dtype), tmp_path / name), name)
    meteora.set_alias("prod", "math")
    for name in ("math", "law", "prod"):
        meteora.verify_adapter(name)
    change_a_byte(tmp_path / "math")
    meteora.verify_adapter("law")
    for name in ("math", "prod"):
        with pytest.raises(AdapterFormatError, match="'math': its files are not what was loaded"):
            meteora.verify_adapter(name)
    meteora.reload_adapter("math", tmp_path / "math")
    meteora.verify_adapter("math")
    (tmp_path / "math" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        meteora.verify_adapter("math")


def test_so_it_is_in_the_hosts_memory(tiered: Meteora, tmp_path: Path) -> None:
    tiered.register_adapter(write(adapter(tiered.model, 4, seed=9), tmp_path / "it"), "it")
    tiered.verify_adapter("it")
    change_a_byte(tmp_path / "it")
    with pytest.raises(AdapterFormatError, match="not what was loaded"):
        tiered.verify_adapter("it")
    tiered.tiers.native.forget("it")  # type: ignore[union-attr]  # as if others had needed the room: its stamp is left
    with pytest.raises(AdapterFormatError, match="changed since it was registered"):
        tiered.verify_adapter("it")
    assert live(tiered) == set()


def test_a_folder_that_is_gone_is_not_looked_for_on_the_hub(
    meteora: Meteora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it was"))
    meteora.load_adapter(write(adapter(meteora.model), Path("owner") / "it"), "it")
    (tmp_path / "owner").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        meteora.verify_adapter("it")


def test_what_is_replaced_meanwhile_is_no_alarm(
    meteora: Meteora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(adapter(meteora.model), tmp_path / "it")
    meteora.load_adapter(folder, "it")
    parse = verifying.parse_own

    def replaced(*args: Any) -> Any:
        monkeypatch.setattr(verifying, "parse_own", parse)
        found = parse(*args)
        meteora.reload_adapter("it", adapter(meteora.model, seed=9))
        return found

    change_a_byte(folder)
    monkeypatch.setattr(verifying, "parse_own", replaced)
    with pytest.raises(AdapterInUseError, match="replaced while it was verified"):
        meteora.verify_adapter("it")


def test_what_has_no_files(loaded: Meteora) -> None:
    with pytest.raises(MeteoraError, match="came from memory"):
        loaded.verify_adapter("math")
    with pytest.raises(AdapterNotFoundError):
        loaded.verify_adapter("nobody")
