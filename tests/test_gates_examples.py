"""An adapter that comes with a few examples: a row from what the last fit kept, and nothing else moved."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import BASE, Auto, Meteora, MeteoraConfig
from meteora_rs.bundles.manifest import read_manifest
from meteora_rs.errors import AdapterFormatError, AdapterInUseError, AdapterNotFoundError, CapacityError, MeteoraError
from meteora_rs.gates.examples import rows_from_examples
from meteora_rs.gates.fit import fit_gates
from meteora_rs.gates.flow import FlowGate
from tiny_numbers import ALPHABETS, POOLS, Numbers, adapter, attached, drawn, texts
from torch import Tensor

THIRD = range(47, 50)


def fitted(config: MeteoraConfig = POOLS) -> Meteora:
    """The tiny model with fitted gates, without the priors: they follow a random model's loss, not the classes."""
    meteora = attached(config)
    report = fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False, temperature=0.5)
    for name, prior in report.priors.items():
        rows = meteora.gate_rows()[name]
        meteora.set_gates({name: {path: (row, bias - prior / 0.5) for path, (row, bias) in rows.items()}})
    return meteora


def examples(alphabet: range = THIRD, count: int = 32) -> list[str]:
    return drawn(random.Random(5), alphabet, count)


def load(meteora: Meteora, name: str = "third", **options: Any) -> meteora_rs.AdapterRecord:
    torch.manual_seed(9)
    options = {"gate": examples(), "tokenizer": Numbers(), **options}
    return meteora.load_adapter(adapter(meteora), name, **options)


def rows(meteora: Meteora, name: str) -> list[Tensor]:
    return [torch.cat([row, torch.tensor([bias])]) for row, bias in meteora.gate_rows()[name].values()]


def shares(meteora: Meteora, alphabet: range) -> dict[str, float]:
    with torch.no_grad(), meteora.trace() as trace, meteora.routing(Auto(), top_k=1):
        for text in drawn(random.Random(6), alphabet, 8):
            meteora.model(input_ids=torch.tensor([Numbers()(text)["input_ids"]]))
    return {name: each.share for name, each in trace.summary().items()}


def test_a_row_that_routes_and_moves_no_other() -> None:
    meteora = fitted()
    before = {name: rows(meteora, name) for name in meteora.gate_rows()}
    record = load(meteora)
    assert (record.name, record.gate, record.routable) == ("third", "examples", True)
    for name, old in before.items():
        assert all(torch.equal(a, b) for a, b in zip(old, rows(meteora, name), strict=True))
    assert [r.name for r in meteora.adapters()] == ["first", "second", "third"]
    assert shares(meteora, THIRD)["third"] > 0.6
    assert shares(meteora, ALPHABETS["first"]).get("third", 0.0) < 0.1
    assert shares(meteora, ALPHABETS["second"]).get("third", 0.0) < 0.1


def test_comes_while_a_request_is_running_and_does_not_touch_it() -> None:
    meteora = fitted()
    ids = torch.tensor([[44, 45, 46, 47, 48]])
    with torch.no_grad(), meteora.routing(Auto()):
        before = meteora.model(input_ids=ids).logits
        load(meteora)
        assert torch.equal(meteora.model(input_ids=ids).logits, before)
    with torch.no_grad():
        assert not torch.equal(meteora.model(input_ids=ids).logits, before)


def test_what_it_lacks_is_said_once_under_its_own_name() -> None:
    meteora = fitted()
    source = adapter(meteora)
    path = meteora.sites[0].path
    tensors = {key: value for key, value in source["tensors"].items() if f"{path}." not in key}
    with pytest.warns(UserWarning) as caught:
        meteora.load_adapter({**source, "tensors": tensors}, "third", gate=examples(), tokenizer=Numbers())
    (said,) = [str(each.message) for each in caught if "no tensors" in str(each.message)]
    assert said.startswith("adapter 'third': 1 of the ") and path in said


def test_others_may_change_while_the_examples_are_read() -> None:
    def row(check: Callable[[Meteora], object]) -> list[Tensor]:
        meteora = fitted(MeteoraConfig(max_adapters=5, pool_rank=32))
        torch.manual_seed(9)
        meteora.load_adapter(adapter(meteora), "third", gate="none")
        rows, _ = rows_from_examples(
            meteora, meteora.adapter("third").slot, "third", examples(), Numbers(), lambda: check(meteora)
        )
        return [torch.cat([row, torch.tensor([bias])]) for row, bias in rows.values()]

    def change(meteora: Meteora) -> None:
        rows = {path: (-row, bias) for path, (row, bias) in meteora.gate_rows()["first"].items()}
        meteora.set_gates({"first": rows})

    for undisturbed, disturbed in zip(row(lambda _: None), row(change), strict=True):
        assert torch.equal(undisturbed, disturbed)


def test_a_bundle_that_is_saved_meanwhile_has_what_was_there_before(tmp_path: Path) -> None:
    meteora, bundles = fitted(), iter([tmp_path / "bundle"])

    class Saving(Numbers):
        def __call__(self, text: str) -> dict[str, list[int]]:
            for folder in bundles:
                assert meteora.stats().slots.pending == 1
                meteora.save_pretrained(folder)
            return super().__call__(text)

    load(meteora, tokenizer=Saving())
    manifest = read_manifest(tmp_path / "bundle")
    assert [each["name"] for each in manifest.adapters] == ["first", "second"]
    assert {path.name for path in (tmp_path / "bundle" / "adapters").iterdir()} == {"first", "second"}


def test_a_later_one_competes_with_an_earlier_one() -> None:
    meteora = fitted()
    load(meteora)
    with pytest.warns(UserWarning, match="can't tell the two apart"):
        load(meteora, "fourth")
    assert meteora.kept_texts is not None
    assert meteora.kept_texts.names[-2:] == ["third", "fourth"]


def test_two_that_come_at_once_are_both_kept() -> None:
    meteora = fitted(MeteoraConfig(max_adapters=6, pool_rank=48))
    both = threading.Barrier(2)

    class Meeting(Numbers):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=5)  # by then both have found out what was kept before
            return super().__call__(text)

    with ThreadPoolExecutor(2) as threads:
        loads = [
            threads.submit(meteora.load_adapter, adapter(meteora), name, gate=examples(alphabet), tokenizer=Meeting())
            for name, alphabet in (("third", THIRD), ("fourth", range(40, 44)))
        ]
        for each in loads:
            each.result()
    assert meteora.kept_texts is not None
    assert sorted(meteora.kept_texts.names[3:]) == ["fourth", "third"]


def test_a_reload_with_examples_gets_a_new_row() -> None:
    meteora = fitted()
    load(meteora)
    old = rows(meteora, "third")
    torch.manual_seed(10)
    record = meteora.reload_adapter("third", adapter(meteora), gate=examples(count=16), tokenizer=Numbers())
    assert record.gate == "examples"
    assert not all(torch.equal(a, b) for a, b in zip(old, rows(meteora, "third"), strict=True))
    kept = rows(meteora, "third")
    meteora.reload_adapter("third", adapter(meteora))
    assert meteora.adapter("third").gate == "examples"
    assert all(torch.equal(a, b) for a, b in zip(kept, rows(meteora, "third"), strict=True))


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (["1 2 3"] * 7, "7 examples; a gate takes 8 or more"),
        ([1] * 8, "a list of texts"),
        ([""] * 8, "no text of two tokens"),
        (["x y"] * 8, "invalid literal"),
    ],
)
def test_bad_examples_leave_nothing_behind(gate: list[Any], message: str) -> None:
    meteora = fitted()
    with pytest.raises(ValueError, match=message):
        load(meteora, gate=gate)
    assert [record.name for record in meteora.adapters()] == ["first", "second"]
    assert meteora.stats().slots.live == 2


@pytest.mark.parametrize("size", [1e18, 1e30])
def test_a_neighbour_without_bounds_is_named_or_its_place_is(size: float) -> None:
    meteora = fitted()
    wild = adapter(meteora)
    wild["tensors"] = {key: value * (size if "lora_B" in key else 1) for key, value in wild["tensors"].items()}
    meteora.reload_adapter("first", wild)
    with pytest.raises(ValueError, match=r"adapter 'third': .*infinite or NaN"):
        load(meteora)
    assert {record.name for record in meteora.adapters()} == {"first", "second"}


def test_names_are_checked_first() -> None:
    meteora = fitted()
    with pytest.raises(AdapterInUseError, match="first"):
        load(meteora, "first")
    with pytest.raises(AdapterNotFoundError):
        meteora.reload_adapter("third", adapter(meteora), gate=examples(), tokenizer=Numbers())
    with pytest.raises(AdapterFormatError, match='"third"'):
        meteora.load_adapter({"config": {}, "tensors": {}}, "third", gate=examples(), tokenizer=Numbers())


def test_without_kept_texts_the_remedy_is_named() -> None:
    with pytest.raises(MeteoraError, match=r"run fit_gates\(\)"):
        load(attached())


def test_a_bundle_brings_the_kept_texts(tmp_path: Path) -> None:
    meteora = fitted()
    meteora.save_pretrained(tmp_path / "bundle")
    meteora.save_pretrained(tmp_path / "bare", kept_texts=False)
    load(meteora)
    expected = rows(meteora, "third")
    meteora.save_pretrained(tmp_path / "three")
    model = meteora.model
    meteora.detach()

    again = meteora_rs.attach_pretrained(model, tmp_path / "bundle")
    load(again)
    for row, other in zip(expected, rows(again, "third"), strict=True):
        assert torch.equal(row, other)
    again.detach()

    three = meteora_rs.attach_pretrained(model, tmp_path / "three")
    assert three.adapter("third").gate == "examples"
    assert all(torch.equal(a, b) for a, b in zip(expected, rows(three, "third"), strict=True))
    three.detach()

    assert not (tmp_path / "bare" / "statistics.safetensors").exists()
    bare = meteora_rs.attach_pretrained(model, tmp_path / "bare")
    with pytest.raises(MeteoraError, match="saved with them"):
        load(bare)
    bare.detach()

    path = tmp_path / "bundle" / "statistics.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterFormatError, match="texts of a fit"):
        meteora_rs.attach_pretrained(model, tmp_path / "bundle")


@pytest.mark.parametrize("seed", [9, 10, 11])
def test_a_twin_is_named_in_a_warning(seed: int) -> None:
    meteora = fitted()
    torch.manual_seed(seed)
    with pytest.warns(UserWarning, match="'first'"):
        meteora.load_adapter(adapter(meteora), "twin", gate=examples(ALPHABETS["first"]), tokenizer=Numbers())


def test_while_it_is_tried_no_other_request_can_choose_it() -> None:
    meteora = fitted(MeteoraConfig(max_adapters=5, pool_rank=32))
    torch.manual_seed(9)
    meteora.load_adapter(adapter(meteora), "third", gate="none")
    chosen: set[str] = set()

    def look() -> None:
        with ThreadPoolExecutor(1) as threads:  # a request of somebody else's
            chosen.update(threads.submit(shares, meteora, THIRD).result())

    rows_from_examples(meteora, meteora.adapter("third").slot, "third", examples(), Numbers(), look)
    assert chosen <= {"first", "second", BASE}
    assert chosen


def test_others_may_go_while_the_examples_are_read() -> None:
    meteora = fitted()
    torch.manual_seed(9)
    meteora.load_adapter(adapter(meteora), "third", gate="none")
    leaving, seat = iter(["first", "second"]), meteora.adapter("third").slot
    rows, _ = rows_from_examples(
        meteora, seat, "third", examples(), Numbers(), lambda: [meteora.unload_adapter(name) for name in leaving]
    )
    assert [record.name for record in meteora.adapters()] == ["third"]
    assert all(row.isfinite().all() for row, _ in rows.values())


def test_gates_that_are_fitted_meanwhile_are_noticed() -> None:
    meteora, fits = fitted(), iter([0])

    class Fitting(Numbers):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
            for _ in fits:
                fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False)
            return super().__call__(text)

    with pytest.raises(AdapterInUseError, match="third"):
        load(meteora, tokenizer=Fitting())
    assert [record.name for record in meteora.adapters()] == ["first", "second"]


def test_a_fit_that_runs_is_not_joined() -> None:
    meteora = fitted()

    class Loading(Numbers):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
            with pytest.raises(AdapterInUseError, match="gates are being fitted"):
                load(meteora)
            return super().__call__(text)

    meteora.fit_gates(texts(0, 8), tokenizer=Loading(), progress=False)


def test_a_class_that_leaves_takes_its_texts_along() -> None:
    meteora = fitted()
    load(meteora)
    meteora.unload_adapter("third")
    assert meteora.kept_texts is not None
    assert meteora.kept_texts.names == ["first", "second", BASE]


def test_texts_may_come_one_by_one_and_autocast_may_be_on() -> None:
    meteora = fitted()
    load(meteora)
    expected = rows(meteora, "third")
    meteora.unload_adapter("third")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        record = load(meteora, gate=(text for text in examples()))
    assert record.gate == "examples"
    assert [row.shape for row in rows(meteora, "third")] == [row.shape for row in expected]


def test_nothing_is_seen_of_it_while_it_is_read() -> None:
    meteora = fitted()
    seen: set[str] = set()

    def look(*_: Any) -> None:
        assert meteora.stats().slots.pending == 1
        seen.update(record.name for record in meteora.adapters())
        seen.update(meteora.stats().tiers["device"].adapters)
        seen.update(name for each in meteora.stats().held for name, _ in each.adapters)

    hook = meteora.model.base_model.register_forward_pre_hook(look)
    with meteora.trace() as trace:
        load(meteora)
    hook.remove()
    assert seen == {"first", "second"} and set(trace.adapters) <= seen


@pytest.mark.parametrize("host_bytes", [0, 1 << 24])
@pytest.mark.parametrize("reload", [False, True])
def test_that_there_is_no_room_is_said_of_its_own_name(host_bytes: int, reload: bool) -> None:
    meteora = fitted(MeteoraConfig(max_adapters=2, pool_rank=32, host_bytes=host_bytes, admission_timeout=0.1))
    for name in ("first", "second"):
        meteora.pin_adapter(name)
    name = "first" if reload else "third"
    with pytest.raises(CapacityError, match=f'^adapter "{name}" does not fit') as refused:
        if reload:
            meteora.reload_adapter(name, adapter(meteora), gate=examples(), tokenizer=Numbers())
        else:
            load(meteora)
    assert "trial" not in str(refused.value)


def test_texts_may_take_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    meteora = fitted()
    monkeypatch.setattr("meteora_rs.gates.fit.beside.BATCH_TOKENS", 100)
    load(meteora)
    assert shares(meteora, THIRD)["third"] > 0.6


def test_a_gate_for_whole_layers_has_no_part_in_its_row() -> None:
    plain, layered = fitted(), fitted()
    load(plain)
    layered.set_flow_gate(FlowGate.of(layered, ["first", "second"]))
    load(layered)
    assert all(torch.equal(a, b) for a, b in zip(rows(plain, "third"), rows(layered, "third"), strict=True))


def test_who_rests_is_named() -> None:
    meteora = fitted(MeteoraConfig(max_adapters=2, pool_rank=32, host_bytes=1 << 24))
    with pytest.warns(UserWarning, match="'(first|second)' is not on the device"):
        load(meteora)


def test_a_name_that_is_taken_costs_no_reading() -> None:
    class Unread(Numbers):
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
            raise AssertionError("read")

    meteora = fitted()
    with pytest.raises(AdapterInUseError, match="first"):
        load(meteora, "first", tokenizer=Unread())
    with pytest.raises(AdapterInUseError, match="first"):
        meteora.reload_adapter("first", adapter(meteora), gate=examples(), tokenizer=Unread(), if_generation=7)


@pytest.mark.parametrize("gone", [["first"], ["first", "second"]])
def test_a_class_that_has_left_does_not_compete(gone: list[str]) -> None:
    meteora = fitted()
    for name in gone:
        meteora.unload_adapter(name)
    load(meteora)
    assert shares(meteora, THIRD)["third"] > 0.6
    for name in {"first", "second"} - set(gone):
        assert shares(meteora, ALPHABETS[name]).get("third", 0.0) < 0.1


def test_alone_it_is_as_good_as_any() -> None:
    meteora = fitted()
    meteora.unload_adapter("first")
    meteora.unload_adapter("second")
    meteora.set_gates({BASE: None})
    load(meteora)
    assert shares(meteora, THIRD)["third"] == 1.0
