"""A request sees the adapters that were live when it began; a failed load leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import meteora_rs
import pytest
from meteora_rs import Auto, Meteora, MeteoraConfig
from meteora_rs.errors import (
    AdapterInUseError,
    AdapterNotFoundError,
    CapacityError,
)
from meteora_rs.handle.stats import Usage
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

IDS = prompt()


def by(meteora: Meteora, route: Any) -> Tensor:
    with meteora.routing(route):
        return logits(meteora.model, IDS)


def changes(model: PreTrainedModel) -> dict[str, Callable[[Meteora], object]]:
    new = adapter(model, 8, seed=11)
    return {
        "load": lambda m: m.load_adapter(new, "new"),
        "reload": lambda m: m.reload_adapter("math", new),
        "reload with a gate": lambda m: m.reload_adapter("math", new, gate=gate_rows(m, 4, equal=False)),
        "unload": lambda m: m.unload_adapter("math"),
        "unload all": lambda m: [m.unload_adapter(each.name) for each in m.adapters()],
        "unload and load": lambda m: (m.unload_adapter("math"), m.load_adapter(new, "math")),
    }


@pytest.mark.parametrize("change", changes(tiny_model()))
@pytest.mark.parametrize("route", [Auto(), "math", ["math", Auto(only=["math", "law"]), "__base__"]])
@pytest.mark.parametrize("equal_gates", [True, False])
def test_an_open_block_keeps_its_adapters(
    meteora: Meteora, model: PreTrainedModel, change: str, route: Any, equal_gates: bool
) -> None:
    for seed, name in enumerate(("math", "law")):
        gate = gate_rows(meteora, seed, equal=equal_gates or name == "law")
        meteora.load_adapter(adapter(model, 4, seed=seed), name, gate=gate)
    before = by(meteora, route)
    with meteora.routing(route):
        changes(model)[change](meteora)
        assert equal(logits(model, IDS), before)


def test_the_next_block_sees_the_change(loaded: Meteora, model: PreTrainedModel) -> None:
    new = adapter(model, 8, seed=11)
    before = by(loaded, "math")
    with loaded.routing("math"):
        loaded.reload_adapter("math", new)
        assert equal(logits(model, IDS), before)
        now = by(loaded, "math")
        assert not equal(now, before)
        with loaded.routing(Auto(only=["law"])):
            assert equal(logits(model, IDS), by(loaded, "law"))
    alone = meteora_rs.attach(tiny_model())
    alone.load_adapter(new, "math")
    assert equal(now, by(alone, "math"))
    loaded.unload_adapter("math")
    with pytest.raises(AdapterNotFoundError, match="loaded: law, sql"):
        by(loaded, "math")


def test_a_block_that_began_before_a_load_does_not_see_it(loaded: Meteora, model: PreTrainedModel) -> None:
    before = logits(model, IDS)
    with loaded.routing(Auto()):
        loaded.load_adapter(adapter(model, 8, seed=11), "new")
        assert equal(logits(model, IDS), before)
    assert not equal(logits(model, IDS), before)


def test_rows_are_reused_only_when_the_last_reader_is_gone(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=2, pool_rank=16))
    sources = [adapter(model, 8, seed=seed) for seed in range(4)]
    meteora.load_adapter(sources[0], "a")
    meteora.load_adapter(sources[1], "b")
    first = by(meteora, "a")
    with meteora.routing("a"):
        meteora.unload_adapter("a")
        with pytest.raises(CapacityError, match=r"needs 1 slots, free 0 of 2 .* held 1 until running requests end"):
            meteora.load_adapter(sources[2], "c")
        with meteora.routing("b"), pytest.raises(CapacityError, match="until running requests end"):
            meteora.reload_adapter("b", sources[2])
        meteora.reload_adapter("b", sources[2])  # in place: full, and nobody reads it
        assert equal(logits(model, IDS), first)
    meteora.load_adapter(sources[2], "c")
    meteora.reload_adapter("b", sources[3])  # in place: full, and nobody reads
    assert [record.name for record in meteora.adapters()] == ["c", "b"]
    alone = meteora_rs.attach(tiny_model())
    alone.load_adapter(sources[3], "b")
    assert equal(by(meteora, "b"), by(alone, "b"))


def test_the_numbers_of_a_capacity_error(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=8, pool_rank=24))
    meteora.load_adapter(adapter(model, 8), "a")
    meteora.load_adapter(adapter(model, 3), "b")
    meteora.pin_adapter("b")
    with pytest.raises(CapacityError) as caught:
        meteora.load_adapter(adapter(model, 9), "c")
    text = str(caught.value)
    for part in ('"c"', "needs 16 rank rows", "free 8 of 24", "largest run 8", "pinned 8", "raise pool_rank"):
        assert part in text, text
    assert meteora.stats().rank_rows == Usage(total=24, live=16, pending=0, held=0, free=8, pinned=8)
    with pytest.raises(AdapterInUseError, match="pinned"):
        meteora.unload_adapter("b")
    meteora.pin_adapter("b", False)
    meteora.unload_adapter("b")
    meteora.load_adapter(adapter(model, 9), "c")


def test_shared_gates_are_evaluated_once_again_when_they_can_be(loaded: Meteora) -> None:
    """Arrow's rows differ between q, k and v; when the last of them is gone, one evaluation serves again."""
    groups = [group for group in loaded.groups if len(group.sites) > 1]
    assert len(groups) == 4
    shares = lambda: {not group._unequal for group in groups}  # noqa: E731
    loaded.load_adapter(adapter(loaded.model), "new", gate=gate_rows(loaded, 1))
    assert shares() == {False}
    with loaded.routing("math"):
        for name in ("math", "law", "sql"):
            loaded.unload_adapter(name)
        assert shares() == {False}
    loaded.reload_adapter("new", adapter(loaded.model, seed=1))
    assert shares() == {True}


def test_a_reload_keeps_gates_that_were_given(loaded: Meteora, model: PreTrainedModel) -> None:
    rows = gate_rows(loaded, 1)
    loaded.set_gates({"math": rows})
    record = loaded.reload_adapter("math", adapter(model, 8, seed=31))
    assert record.gate == "fitted" and record.generation > 0
    kept = loaded.gate_rows()["math"]
    assert all(equal(kept[path][0], row) for path, (row, _) in rows.items())
