"""The host tier: its budget, and what is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from meteora_rs import Meteora
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, AdapterNotFoundError, CapacityError
from meteora_rs.serving.cancel import Cancellation
from meteora_rs.tiers.registration import Copy
from meteora_rs.tiers.tiers import Tiers
from tiers_case import NAMES, alone, attached, by, size_of_one
from tiny import adapter, equal, gate_rows, write
from transformers import PreTrainedModel


def test_the_hosts_budget_is_hard(model: PreTrainedModel, tmp_path: Path) -> None:
    one = size_of_one(model, tmp_path)
    meteora = attached(model, slots=1, host_bytes=2 * one)
    folders = {n: write(adapter(model, 4, seed=s), tmp_path / n) for s, n in enumerate(NAMES)}
    for name in ("a", "b", "c"):
        meteora.register_adapter(folders[name], name)
    host = meteora.stats().tiers["host"]
    assert host.touched == host.reserved == 2 * one and set(host.adapters) == {"b", "c"}
    tiers = {record.name: record.tier for record in meteora.registered_adapters()}
    assert tiers == {"a": "disk", "b": "host", "c": "host"}
    assert equal(by(meteora, "a"), alone("a"))  # read again; "b" went for it
    memory = adapter(model, 4, seed=3)
    meteora.register_adapter(memory, "d")
    with pytest.raises(CapacityError, match=r"needs .* host bytes, free 0 of .* raise host_bytes"):
        meteora.register_adapter(memory, "e")
    assert not meteora.stats().tiers["host"].adapters.keys() - {"a", "d"}
    assert equal(by(meteora, "d"), alone("d"))
    assert equal(by(meteora, "b"), alone("b"))  # "a" rests now, and goes to disk for it


def test_files_that_changed_are_never_served_as_the_old_adapter(model: PreTrainedModel, tmp_path: Path) -> None:
    one = size_of_one(model, tmp_path)
    meteora = attached(model, slots=1, host_bytes=one)
    for seed, name in enumerate(("a", "b")):
        meteora.register_adapter(write(adapter(model, 4, seed=seed), tmp_path / name), name)
    write(adapter(model, 4, seed=2), tmp_path / "a")
    with pytest.raises(AdapterFormatError, match="'a': its files have changed since it was registered"):
        by(meteora, "a")
    meteora.reload_adapter("a", tmp_path / "a")
    assert equal(by(meteora, "a"), alone("c"))
    (tmp_path / "b" / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        by(meteora, "b")


def test_what_has_come_back_is_not_read_again(model: PreTrainedModel, tmp_path: Path) -> None:
    """Where it was unloaded and registered anew between the look for it and this: its gate is in no file."""
    meteora = attached(model)
    assert meteora.tiers is not None
    meteora.register_adapter(write(adapter(model, 4), tmp_path / "a"), "a", gate=gate_rows(meteora, 1))
    meteora.register_adapter(adapter(model, 4), "memory")
    for name in ("a", "memory"):
        meteora.tiers.fetch(name)
        assert meteora.tiers.native.hosts(name)


def test_what_has_left_the_host_is_asked_for_again(tiered: Meteora) -> None:
    assert tiered.tiers is not None
    with pytest.raises(AdapterInUseError, match="left the host's memory while it was waited for; try again"):
        tiered.tiers.native.make_room(["gone"], [], [site.kernel for site in tiered.sites])


def test_what_is_registered_no_more_is_not_found(tiered: Meteora) -> None:
    tiers = tiered.tiers
    assert tiers is not None
    resting = [record.name for record in tiers.resting()]
    tiered.unload_adapter("a")
    with pytest.raises(AdapterNotFoundError, match="no adapter named 'a' is registered"):
        tiers.record("a")
    with pytest.raises(AdapterNotFoundError, match="no adapter named 'a' is registered"):
        tiers.fetch("a")
    assert resting == list(NAMES) and [record.name for record in tiers.resting()] == resting[1:]


def load_in_the_middle(meteora: Meteora) -> None:
    """A load that is published when another has registered its name."""
    load = (
        meteora._load(adapter(meteora.model, 4), "new", "arrow", None, None, reload=False)
        .check()
        .prepare(Cancellation())
    )
    meteora.register_adapter(adapter(meteora.model, 4), "new")
    load.publish()


def register_in_the_middle(meteora: Meteora) -> None:
    assert meteora.tiers is not None
    pack = meteora.tiers.pack

    def meanwhile(*args: Any) -> Copy:
        packed = pack(*args)
        patch.undo()
        meteora.load_adapter(adapter(meteora.model, 4), "new")
        return packed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tiers, "pack", staticmethod(meanwhile))
        meteora.register_adapter(adapter(meteora.model, 4), "new")


def reload_in_the_middle(meteora: Meteora) -> None:
    """One that changes the host's copy alone, published when its adapter has gone."""
    meteora.register_adapter(adapter(meteora.model, 4), "new")
    load = (
        meteora._load(adapter(meteora.model, 4, seed=1), "new", None, None, None, reload=True)
        .check()
        .prepare(Cancellation())
    )
    meteora.unload_adapter("new")
    load.publish()


def gates_of_one_that_is_not_there(meteora: Meteora) -> None:
    meteora.register_adapter(adapter(meteora.model, 4), "new")
    rows = gate_rows(meteora, 1)
    meteora.set_gates({"new": rows, "unknown": rows})


REFUSED: dict[str, Callable[[Meteora], None]] = {
    "load": load_in_the_middle,
    "register": register_in_the_middle,
    "reload": reload_in_the_middle,
    "gates": gates_of_one_that_is_not_there,
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_was_refused_keeps_no_bytes_though_its_traceback_is_kept(model: PreTrainedModel, call: str) -> None:
    meteora = attached(model)
    with pytest.raises((AdapterInUseError, AdapterNotFoundError)) as refused:
        REFUSED[call](meteora)
    for record in meteora.registered_adapters():
        meteora.unload_adapter(record.name)
    assert meteora.stats().tiers["host"].touched == 0
    assert refused.traceback
