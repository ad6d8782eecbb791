"""New gates while requests run: in slots of their own, over the same rows."""

from __future__ import annotations

import threading
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig
from meteora_rs.errors import AdapterInUseError
from meteora_rs.gate_kinds import TensorGate
from meteora_rs.serving.cancel import Cancellation
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from transformers import PreTrainedModel

IDS = prompt()


@pytest.mark.parametrize("equal_rows", [True, False])
def test_a_running_request_keeps_its_gates(loaded: Meteora, equal_rows: bool) -> None:
    loaded.set_gates({name: gate_rows(loaded, seed) for seed, name in enumerate(("math", "law"))})
    before, rows = logits(loaded.model, IDS), gate_rows(loaded, 9, equal=equal_rows)
    old = loaded.adapter("math")
    with loaded.routing(Auto()):
        loaded.set_gates({"math": rows})
        assert equal(logits(loaded.model, IDS), before)
        assert loaded.stats().slots.held == 1
    new = loaded.adapter("math")
    assert (new.id, new.weights) == (old.id, old.weights)
    assert new.slot != old.slot and new.generation > old.generation
    assert loaded.stats().slots.held == 0
    assert all(equal(loaded.gate_rows()["math"][path][0], row) for path, (row, _) in rows.items())
    with loaded.routing("math"):
        by_name = logits(loaded.model, IDS)
    with loaded.routing(Auto(only=["math"])):
        assert equal(logits(loaded.model, IDS), by_name)


def test_a_change_that_a_signal_ends_is_under_way_no_more(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        """A lock that a signal interrupts the wait for, the second time."""

        def __init__(self) -> None:
            self.lock, self.times = threading.Lock(), 0

        def __enter__(self) -> None:
            self.times += 1
            if self.times == 2:
                raise KeyboardInterrupt
            self.lock.acquire()

        def __exit__(self, *args: object) -> None:
            self.lock.release()

    with loaded.routing("math"):
        monkeypatch.setattr(loaded, "_writer", Interrupted())
        with pytest.raises(KeyboardInterrupt) as kept:
            loaded.set_gates({"math": gate_rows(loaded, 3)})
        loaded.set_gates({"math": gate_rows(loaded, 4)})
    assert kept.tb is not None


def test_the_base_changes_its_gates_as_well(loaded: Meteora) -> None:
    never, always = (
        {path: (torch.zeros_like(row), bias) for path, (row, _) in gate_rows(loaded, 1).items()} for bias in (-1e6, 1e6)
    )
    with loaded.routing("__base__"):
        base = logits(loaded.model, IDS)
    without = logits(loaded.model, IDS)
    loaded.set_gates({"__base__": never})
    with loaded.routing(Auto(), top_k=1):
        first = logits(loaded.model, IDS)
        loaded.set_gates({"__base__": always})
        assert equal(logits(loaded.model, IDS), first)
        with loaded.routing(Auto(), top_k=1):
            assert equal(logits(loaded.model, IDS), base)
            with pytest.raises(AdapterInUseError, match='"__base__" is in use: running requests hold its gate rows'):
                loaded.set_gates({"__base__": never})
            loaded.set_gates({"__base__": None})
        assert not equal(first, base)
    assert not loaded.base_is_class
    assert equal(logits(loaded.model, IDS), without)


def test_without_a_free_slot_it_says_so_and_changes_nothing(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=2, pool_rank=16))
    for seed, name in enumerate("ab"):
        meteora.load_adapter(adapter(model, 8, seed=seed), name, gate=gate_rows(meteora, seed))
    records, before = meteora.adapters(), logits(model, IDS)
    with meteora.routing("a"):
        with pytest.raises(AdapterInUseError, match="1 needed, 0 free"):
            meteora.set_gates({"a": gate_rows(meteora, 5)})
        with pytest.raises(AdapterInUseError, match="fit_gates tries gates on its way"):
            meteora.fit_gates({"a": ["text"], "b": ["text"]}, base=None, tokenizer=object())
    assert meteora.adapters() == records and equal(logits(model, IDS), before)
    meteora.set_gates({"a": gate_rows(meteora, 5)})
    assert not equal(logits(model, IDS), before)


def test_changes_while_requests_never_stop() -> None:
    """At each moment some request runs, and each sees one state of the gates."""
    model = tiny_model()
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=8, pool_rank=16))
    states = []
    for seed, name in enumerate("ab"):
        meteora.load_adapter(adapter(model, 8, seed=seed), name, gate=gate_rows(meteora, seed))
    for seed in (3, 5):
        rows = {name: gate_rows(meteora, seed + place) for place, name in enumerate("ab")}
        meteora.set_gates(rows)
        with meteora.routing(Auto(), top_k=1):  # one adapter a token: no sum depends on the slots' order
            states.append((rows, logits(model, IDS)))
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            with meteora.routing(Auto(), top_k=1):
                found = logits(model, IDS)
            if not any(equal(found, each) for _, each in states):
                torn.append(found)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    refused = 0
    for turn in range(60):
        try:
            meteora.set_gates(states[turn % 2][0])
        except AdapterInUseError:
            refused += 1
    stop.set()
    for thread in threads:
        thread.join()
    assert not torn and refused < 60
    assert meteora.stats().slots.free == 6


def test_rows_that_are_read_are_of_one_moment(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without requests new rows are written in place: who reads them meanwhile waits, and sees all of them."""
    old, new = gate_rows(loaded, 1), gate_rows(loaded, 2)
    loaded.set_gates({"math": old, "law": old})
    write, seen, readers = TensorGate.write, [], []

    def written(gate: TensorGate, *args: Any, **options: Any) -> None:
        write(gate, *args, **options)
        readers.append(threading.Thread(target=lambda: seen.append(loaded.gate_rows())))
        readers[-1].start()
        readers[-1].join(0.2)  # time enough to read half of it

    monkeypatch.setattr(TensorGate, "write", written)
    loaded.set_gates({"math": new, "law": new})
    for reader in readers:
        reader.join()
    assert len(seen) == 2
    for rows in seen:
        assert len({equal(rows[name][path][0], new[path][0]) for name in ("math", "law") for path in new}) == 1


def test_rows_of_what_is_reloaded_in_its_own_place_are_not_read(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 8), "a", gate=gate_rows(meteora, 1))
    load = meteora._load(adapter(model, 8), "a", None, None, None, reload=True).check().prepare(Cancellation())
    with pytest.raises(AdapterInUseError, match="in its own place"):
        meteora.gate_rows()
    load.publish()
    assert set(meteora.gate_rows()) == {"a"}
