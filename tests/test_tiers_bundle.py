"""Bundles of adapters that are not all on the device."""

from __future__ import annotations

from pathlib import Path

import meteora_rs
import pytest
from meteora_rs import Auto, Meteora, MeteoraConfig
from meteora_rs.errors import AdapterFormatError, CapacityError
from tiers_case import NAMES, alone, attached, by, live, size_of_one
from tiny import adapter, equal, gate_rows, tiny_model, write
from transformers import PreTrainedModel

PAIR = Auto(only=["c", "e"])


def attach_again(folder: Path, config: MeteoraConfig | None = None) -> Meteora:
    return meteora_rs.attach_pretrained(tiny_model(), folder, config)


def test_what_rests_is_in_a_bundle(tiered: Meteora, tmp_path: Path) -> None:
    tiered.prefetch(["c", "a"])
    tiered.pin_adapter("c")
    tiered.set_gates({name: gate_rows(tiered, NAMES.index(name)) for name in "ce"})
    tiered.save_pretrained(tmp_path / "bundle")
    assert live(tiered) == {"a", "c"}
    again = attach_again(tmp_path / "bundle")
    listed = [(each.name, each.gate, each.pinned, each.tier) for each in again.registered_adapters()]
    assert listed == [(each.name, each.gate, each.pinned, each.tier) for each in tiered.registered_adapters()]
    assert equal(by(again, PAIR), alone(PAIR, gates=True))
    again.pin_adapter("c", False)
    for name in NAMES:
        assert equal(by(again, name), alone(name))


def test_a_bundle_of_many_fits_larger_pools_without_a_host_tier(tiered: Meteora, tmp_path: Path) -> None:
    tiered.prefetch(["a", "c"])
    tiered.save_pretrained(tmp_path / "bundle")
    again = attach_again(tmp_path / "bundle", MeteoraConfig(max_adapters=5, pool_rank=40))
    assert live(again) == set(NAMES)
    assert equal(by(again, PAIR), alone(PAIR))
    with pytest.raises(CapacityError):
        attach_again(tmp_path / "bundle", MeteoraConfig(max_adapters=4, pool_rank=40))


@pytest.fixture
def on_disk(model: PreTrainedModel, tmp_path: Path) -> Meteora:
    """Room for two in the host's memory, of which one can't leave, and for one on the device; "b" is on disk."""
    meteora = attached(model, slots=1, host_bytes=2 * size_of_one(model, tmp_path))
    meteora.register_adapter(adapter(model, 4, seed=0), "a")
    for seed, name in enumerate("bc", 1):
        meteora.register_adapter(write(adapter(model, 4, seed=seed), tmp_path / name), name)
    assert [each.tier for each in meteora.registered_adapters()] == ["host", "disk", "host"]
    return meteora


def test_what_is_on_disk_is_read_for_a_bundle(on_disk: Meteora, tmp_path: Path) -> None:
    on_disk.save_pretrained(tmp_path / "bundle")
    again = attach_again(tmp_path / "bundle")
    for name in "abc":
        assert equal(by(again, name), alone(name))


def test_other_files_than_were_registered_end_it(on_disk: Meteora, model: PreTrainedModel, tmp_path: Path) -> None:
    write(adapter(model, 4, seed=9), tmp_path / "b")
    with pytest.raises(AdapterFormatError, match="'b': its files have changed since it was registered"):
        on_disk.save_pretrained(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    with pytest.raises(AdapterFormatError, match="'b': its files have changed since it was registered"):
        on_disk.set_gates({"b": gate_rows(on_disk, 1)})


def test_gates_of_what_is_on_disk(on_disk: Meteora) -> None:
    on_disk.set_gates({"b": gate_rows(on_disk, 1)})
    assert [each.tier for each in on_disk.registered_adapters()] == ["host", "host", "disk"]
    with pytest.raises(CapacityError, match=r"host bytes, free 0 .* raise host_bytes"):
        by(on_disk, "c")  # the other two can't be read again
    on_disk.unload_adapter("b")
    assert equal(by(on_disk, "c"), alone("c"))
