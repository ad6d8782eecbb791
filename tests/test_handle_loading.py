"""Loads beside loads, and reloads of one generation only."""

from __future__ import annotations

import threading
from unittest.mock import patch

import pytest
from meteora_rs import Auto, Meteora, MeteoraConfig, attach
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError
from meteora_rs.gate_kinds import ArrowGate
from meteora_rs.routing.context import RoutingContext
from meteora_rs.sites.groups import equal_gates
from tiny import adapter, equal, logits, prompt, tiny_model
from transformers import PreTrainedModel


def test_compare_and_swap(loaded: Meteora) -> None:
    first = loaded.adapter("math").generation
    second = loaded.reload_adapter("math", adapter(loaded.model, 4, seed=7), if_generation=first)
    with pytest.raises(AdapterInUseError, match=f"its generation is {second.generation}, where {first} was expected"):
        loaded.reload_adapter("math", adapter(loaded.model, 4, seed=8), if_generation=first)
    assert loaded.adapter("math") == second
    with pytest.raises(AdapterNotFoundError):
        loaded.reload_adapter("new", adapter(loaded.model), if_generation=first)


def test_of_many_swaps_one_wins(loaded: Meteora) -> None:
    generation = loaded.adapter("math").generation
    start, won, lost = threading.Barrier(6), [], []

    def swap(seed: int) -> None:
        source = adapter(loaded.model, 4, seed=seed)
        start.wait()
        try:
            won.append(loaded.reload_adapter("math", source, if_generation=generation))
        except AdapterInUseError as error:
            lost.append(error)

    threads = [threading.Thread(target=swap, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(lost) == 5
    assert loaded.adapter("math") == won[0]


def test_loads_from_many_threads(model: PreTrainedModel) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=12, pool_rank=96))
    sources = [adapter(model, 8, seed=seed) for seed in range(12)]
    threads = [
        threading.Thread(target=meteora.load_adapter, args=(source, f"a{seed}")) for seed, source in enumerate(sources)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = attach(tiny_model())
    for seed, source in enumerate(sources):
        alone.load_adapter(source, f"a{seed}")
        with meteora.routing(f"a{seed}"), alone.routing(f"a{seed}"):
            assert equal(logits(model, prompt()), logits(alone.model, prompt()))


@pytest.mark.parametrize("where", ["meteora_rs.gate_kinds.ArrowGate.write", "meteora_rs.serving.load.equal_gates"])
def test_an_interrupt_over_its_own_place_ends_with_the_new_weights(model: PreTrainedModel, where: str) -> None:
    """Half of the old rows may be gone: neither they nor a mixture may be served."""
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 8, seed=0), "a")
    interrupted = []

    def interrupt(*args: object, **kwargs: object) -> object:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    original = ArrowGate.write if where.endswith("write") else equal_gates
    with patch(where, interrupt), pytest.raises(KeyboardInterrupt):
        meteora.reload_adapter("a", adapter(model, 8, seed=1))
    alone = attach(tiny_model())
    alone.load_adapter(adapter(model, 8, seed=1), "a")
    for route in ("a", Auto()):
        with meteora.routing(route), alone.routing(route):
            assert equal(logits(model, prompt()), logits(alone.model, prompt()))


def by_default(meteora: Meteora) -> list[str]:
    """Whom the default plan reaches: compiled graphs use it, and who calls a part of the model by itself."""
    return [name for _, name, *_ in meteora._context.default.plan.native.adapters()]


@pytest.mark.parametrize("where", ["serving.load.Load._before_writing", "routing.context.RoutingContext.refresh"])
def test_what_stood_aside_for_a_reload_that_failed_is_back_for_all(model: PreTrainedModel, where: str) -> None:
    meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 8, seed=0), "a")
    assert by_default(meteora) == ["a"]
    refresh, signals = RoutingContext.refresh, iter([KeyboardInterrupt])

    def fail(*args: RoutingContext) -> None:
        if where.endswith("refresh"):
            refresh(*args)
        for signal in signals:
            raise signal

    with patch(f"meteora_rs.{where}", fail), pytest.raises(KeyboardInterrupt):
        meteora.reload_adapter("a", adapter(model, 8, seed=1))
    assert by_default(meteora) == ["a"]


def test_loads_take_no_lock_that_requests_take(loaded: Meteora) -> None:
    def change() -> None:
        loaded.load_adapter(adapter(loaded.model, 4, seed=8), "new")
        loaded.reload_adapter("new", adapter(loaded.model, 4, seed=9))
        loaded.unload_adapter("new")

    loader = threading.Thread(target=change)
    with loaded._context.lock:
        loader.start()
        loader.join(60)
        assert not loader.is_alive()


def test_a_signal_when_the_default_plan_has_just_been_let_go(loaded: Meteora) -> None:
    class Interrupted:
        def release(self) -> None:
            raise KeyboardInterrupt

    loaded._context.default.plan.native = Interrupted()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        loaded._require_quiet("quiet")
    assert by_default(loaded) == ["math", "law", "sql"]
