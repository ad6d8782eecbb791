"""Loads, reloads and new gates of adapters that may be on the device or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny_numbers
from meteora_rs import Auto, Meteora, MeteoraConfig, attach_pretrained
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError, CapacityError
from meteora_rs.serving.cancel import Cancellation
from meteora_rs.serving.gate_change import GateChange
from meteora_rs.serving.load import Load
from meteora_rs.tiers import Admission, Tiers
from meteora_rs.tiers.turn import Turn
from tiers_case import NAMES, alone, attached, by, live
from tiny import adapter, equal, gate_rows, tiny_model
from transformers import PreTrainedModel


def test_loading_makes_room_and_leaves_a_copy(tiered: Meteora, model: PreTrainedModel) -> None:
    tiered.prefetch(["a", "b"])
    record = tiered.load_adapter(adapter(model, 4, seed=9), "new", gate="none")
    assert record.tier == "device" and live(tiered) == {"b", "new"}
    new = by(tiered, "new")
    tiered.prefetch(["c", "d"])
    assert equal(by(tiered, "new"), new)
    with pytest.raises(AdapterInUseError, match="registered under this name"):
        tiered.load_adapter(adapter(model, 4), "a")
    with pytest.raises(AdapterInUseError, match="has this name"):
        tiered.register_adapter(adapter(model, 4), "new")


def test_reloading_what_rests_changes_the_hosts_copy(tiered: Meteora, model: PreTrainedModel) -> None:
    changed = adapter(model, 4, seed=4)
    assert tiered.reload_adapter("a", changed).tier == "host"
    assert live(tiered) == set()
    assert equal(by(tiered, "a"), alone("e"))
    tiered.reload_adapter("a", adapter(model, 4, seed=3))
    tiered.prefetch(["b", "c"])
    assert equal(by(tiered, "a"), alone("d"))
    generation = tiered.adapter("a").generation
    tiered.prefetch(["b", "c"])
    with pytest.raises(AdapterInUseError, match="generation"):
        tiered.reload_adapter("a", changed, if_generation=generation)


def test_reloading_what_rests_keeps_given_gates(tiered: Meteora, model: PreTrainedModel) -> None:
    tiered.prefetch(["a"])
    rows = gate_rows(tiered, 5)
    tiered.set_gates({"a": rows})
    tiered.prefetch(["b", "c"])
    tiered.reload_adapter("a", adapter(model, 4, seed=4))
    tiered.prefetch(["a"])
    assert tiered.adapter("a").gate == "fitted"
    assert all(equal(tiered.gate_rows()["a"][path][0], row) for path, (row, _) in rows.items())


def test_gates_that_were_changed_come_home_with_it(tiered: Meteora) -> None:
    tiered.prefetch(["a", "b"])
    rows = {"a": gate_rows(tiered, 0), "b": gate_rows(tiered, 1)}
    tiered.set_gates(rows)
    tiered.prefetch(["c", "d"])
    assert live(tiered) == {"c", "d"}
    assert equal(by(tiered, Auto(only=["a", "b"])), alone(Auto(only=["a", "b"]), gates=True))
    kept = tiered.gate_rows()
    for name, each in rows.items():
        for path, (row, bias) in each.items():
            assert equal(kept[name][path][0], row) and kept[name][path][1] == pytest.approx(bias)
    assert [record.gate for record in tiered.adapters()] == ["fitted", "fitted"]


FITTED = Auto(only=["a", "c"])


def fit(tiered: Meteora, names: str) -> None:
    tiered.set_gates({name: gate_rows(tiered, NAMES.index(name)) for name in names})


@pytest.mark.parametrize("running", [False, True])
def test_new_gates_wherever_they_are(tiered: Meteora, running: bool) -> None:
    tiered.prefetch(["b"])
    with tiered.routing("b") if running else nullcontext():
        fit(tiered, "abcde")
    assert live(tiered) == {"b"}
    assert {record.gate for record in tiered.registered_adapters()} == {"fitted"}
    assert equal(by(tiered, FITTED), alone(FITTED, gates=True))


def test_new_gates_are_for_all_or_none(tiered: Meteora) -> None:
    tiered.prefetch(["a"])
    with tiered.routing("a"):
        tiered.prefetch(["b"])  # no free slot is left, and the running request keeps "a" in its own
        with pytest.raises(AdapterInUseError, match="running requests hold its gate rows"):
            fit(tiered, "ac")
    assert {record.gate for record in tiered.registered_adapters()} == {"arrow"}
    with pytest.raises(AdapterNotFoundError, match="nobody"):
        tiered.set_gates({"c": gate_rows(tiered, 2), "nobody": gate_rows(tiered, 2)})


def test_one_that_comes_while_its_gates_change(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    meteora = attached(model, slots=4)
    for seed, name in enumerate(NAMES):
        meteora.register_adapter(adapter(model, 4, seed=seed), name)
    write, comes = GateChange._write, iter([["c"]])

    def written(change: GateChange, reservation: Any) -> Any:
        meteora.prefetch(next(comes, []))
        return write(change, reservation)

    monkeypatch.setattr(GateChange, "_write", written)
    with meteora.routing("b"):  # so that new rows take a slot of their own, and are written outside all locks
        fit(meteora, "abc")
    assert live(meteora) == {"b", "c"}
    assert equal(by(meteora, FITTED), alone(FITTED, gates=True))


def test_gates_that_change_while_it_comes(tiered: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    make_room, changes = Turn.make_room, iter(["ac"])

    def made(turn: Turn, make: Any) -> Any:
        made = make_room(turn, make)
        fit(tiered, next(changes, ""))
        return made

    monkeypatch.setattr(Turn, "make_room", made)
    assert equal(by(tiered, FITTED), alone(FITTED, gates=True))


def test_gates_that_change_while_it_is_reloaded(tiered: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tiered, "bd")
    pack, changes = Tiers.pack, iter(["ac"])

    def packed(tiers: Tiers, *args: Any) -> Any:
        copy = pack(tiers, *args)
        fit(tiered, next(changes, ""))
        return copy

    tiered.set_gates({name: gate_rows(tiered, 9) for name in "ac"})
    monkeypatch.setattr(Tiers, "pack", packed)
    tiered.reload_adapter("a", adapter(tiered.model, 4, seed=0))
    assert equal(by(tiered, FITTED), alone(FITTED, gates=True))


def test_one_that_is_unloaded_while_its_reload_is_read(tiered: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    check = Load.check

    def checked(load: Load) -> Load:
        check(load)
        tiered.unload_adapter("a")
        return load

    monkeypatch.setattr(Load, "check", checked)
    with pytest.raises(AdapterNotFoundError, match='no adapter named "a"'):
        tiered.reload_adapter("a", adapter(tiered.model, 4, seed=9))


def in_place(model: PreTrainedModel) -> tuple[Meteora, Load]:
    """Room for one, "a", and a reload that is writing over it."""
    meteora = attached(model, slots=1)
    meteora.load_adapter(adapter(model, 4, seed=0), "a")
    load = meteora._load(adapter(model, 4, seed=1), "a", None, None, None, reload=True).check().prepare(Cancellation())
    assert load._reservation is not None and load._reservation.in_place
    return meteora, load


CHANGES: dict[str, Callable[[Meteora], object]] = {
    "unload": lambda meteora: meteora.unload_adapter("a"),
    "reload": lambda meteora: meteora.reload_adapter("a", adapter(meteora.model, 4, seed=2)),
    "gates": lambda meteora: meteora.set_gates({"a": gate_rows(meteora, 2)}),
    "pin": lambda meteora: meteora.pin_adapter("a"),
    "request": lambda meteora: by(meteora, "a"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_reloaded_in_its_own_place_does_not_rest(model: PreTrainedModel, change: str) -> None:
    """A change that took it for resting was lost: what was unloaded came back, new weights and gates went."""
    meteora, load = in_place(model)
    assert [record.name for record in meteora.registered_adapters()] == ["a"]
    with pytest.raises(AdapterInUseError):
        CHANGES[change](meteora)
    load.publish()
    assert equal(by(meteora, "a"), alone("b"))


def test_of_two_under_one_name_one_is_refused(tiered: Meteora, model: PreTrainedModel) -> None:
    load = (
        tiered._load(adapter(model, 4, seed=0), "new", "arrow", None, None, reload=False)
        .check()
        .prepare(Cancellation())
    )
    tiered.register_adapter(adapter(model, 4, seed=1), "new")
    with pytest.raises(AdapterInUseError, match="meanwhile"):
        load.publish()
    assert equal(by(tiered, "new"), alone("b"))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["new", "a"])
def test_what_is_live_is_registered_though_a_signal_comes_between(
    tiered: Meteora, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, name: str, late: bool
) -> None:
    tiered.prefetch(["a"])
    keep, signals = Tiers.keep, iter([KeyboardInterrupt])

    def kept(tiers: Tiers, *args: Any) -> Any:
        for signal in () if late else signals:
            raise signal
        record = keep(tiers, *args)
        for signal in signals:
            raise signal
        return record

    monkeypatch.setattr(Tiers, "keep", kept)
    with pytest.raises(KeyboardInterrupt):
        source = adapter(model, 4, seed=4)
        _ = tiered.reload_adapter(name, source) if name == "a" else tiered.load_adapter(source, name)
    for _ in range(2):
        assert equal(by(tiered, name), alone("e"))
        tiered.prefetch(["b", "c"])


def kept(meteora: Meteora) -> set[str]:
    return {record.name for record in meteora.adapters() if record.kept}


def pinned(meteora: Meteora) -> set[str]:
    return {record.name for record in meteora.adapters() if record.pinned}


def test_what_a_fit_keeps_is_let_go_whatever_happens(tiered: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    leave, signals = Admission.leave, iter([None, KeyboardInterrupt])

    def interrupted(admission: Admission) -> None:
        leave(admission)
        if signal := next(signals):
            raise signal

    monkeypatch.setattr(Admission, "leave", interrupted)
    with pytest.raises(KeyboardInterrupt), tiered._kept_on_device(["a", "b"]):
        pass
    assert live(tiered) == {"a", "b"} and not kept(tiered)


def test_of_two_fits_each_lets_go_its_own_alone(tiered: Meteora) -> None:
    tiered.pin_adapter("a")
    one, other = tiered._kept_on_device(["a", "b"]), tiered._kept_on_device(["b"])
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert kept(tiered) == {"b"} and pinned(tiered) == {"a"}
    tiered.pin_adapter("b")
    tiered.pin_adapter("b", False)  # nor does a user
    assert kept(tiered) == {"b"} and pinned(tiered) == {"a"}
    with pytest.raises(AdapterInUseError, match="a fit or a training keeps it"):
        tiered.unload_adapter("b")
    other.__exit__(None, None, None)
    assert not kept(tiered) and pinned(tiered) == {"a"}
    tiered.unload_adapter("b")


def test_a_bundle_saved_while_a_fit_runs_pins_what_users_have_pinned(tiered: Meteora, tmp_path: Path) -> None:
    tiered.pin_adapter("a")
    with tiered._kept_on_device(["a", "b"]):
        tiered.save_pretrained(tmp_path / "bundle")
    assert pinned(attach_pretrained(tiny_model(), tmp_path / "bundle")) == {"a"}


def test_a_fit_brings_its_adapters_in() -> None:
    options: dict[str, Any] = {"tokenizer": tiny_numbers.Numbers(), "passes": 1, "progress": False, "temperature": 1.0}
    meteora = tiny_numbers.attached(MeteoraConfig(max_adapters=2, pool_rank=16, host_bytes=1 << 20))
    meteora.load_adapter(tiny_numbers.adapter(meteora), "third")
    assert live(meteora) == {"second", "third"}
    meteora.fit_gates(tiny_numbers.texts(0), **options)
    assert [(each.name, each.gate, each.pinned) for each in meteora.registered_adapters()] == [
        ("second", "fitted", False), ("first", "fitted", False), ("third", "arrow", False)
    ]  # fmt: skip
    with pytest.raises(CapacityError, match="pinned 2"):
        meteora.fit_gates({**tiny_numbers.texts(0), "third": ["a"]}, **options)
    assert not pinned(meteora) and not kept(meteora)
