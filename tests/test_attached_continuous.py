"""Continuous batching generates in another thread: it follows the default, and is refused inside a block."""

from __future__ import annotations

from typing import Any

import meteora_rs
import pytest
from meteora_rs import Auto, Meteora, MeteoraConfig
from meteora_rs.errors import RouteError
from tiny import prompt
from transformers import GenerationConfig, PreTrainedModel

pytest.importorskip("transformers.generation.continuous_batching")
from transformers.generation import ContinuousBatchingConfig

GREEDY = GenerationConfig(max_new_tokens=3, do_sample=False, eos_token_id=96, pad_token_id=0)


def options() -> dict[str, Any]:
    small = ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=64)
    return {"generation_config": GREEDY, "continuous_batching_config": small}


def batch(meteora: Meteora) -> list[list[int]]:
    return [
        out.generated_tokens for out in meteora.model.generate_batch(inputs=prompt(2).tolist(), **options()).values()
    ]


def test_outside_of_a_block_it_follows_auto(loaded: Meteora) -> None:
    assert batch(loaded) == loaded.model.generate(prompt(2), generation_config=GREEDY)[:, 7:].tolist()


@pytest.mark.parametrize("route", ["math", "__base__", Auto(only=["law"]), Auto(), ["math", "law"]])
def test_inside_a_block_it_is_refused(loaded: Meteora, route: Any) -> None:
    with loaded.routing(route), pytest.raises(RouteError, match="generate_batch"):
        batch(loaded)


def test_so_it_is_in_a_trace(loaded: Meteora) -> None:
    with loaded.trace(), pytest.raises(RouteError, match="generate_batch"):
        batch(loaded)


def test_so_it_is_where_blocks_are_required(model: PreTrainedModel) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(require_routing=True))
    with pytest.raises(RouteError, match="generate_batch"):
        batch(meteora)


def test_a_manager_takes_no_request_of_a_block(loaded: Meteora) -> None:
    model = loaded.model
    with loaded.routing("math"), pytest.raises(RouteError), model.continuous_batching_context_manager(**options()):
        pass
    manager = model.init_continuous_batching(**options())
    with loaded.routing("math"):
        for refused in (manager.start, lambda: manager.add_request([5, 6])):
            with pytest.raises(RouteError):
                refused()
        with pytest.raises(RouteError):
            manager.add_requests([[5, 6]])
    assert not manager.is_running()


def test_a_manager_that_is_kept_is_guarded_once_for_each_handle(loaded: Meteora) -> None:
    model = loaded.model
    model._cached_continuous_batching_manager = model.init_continuous_batching(**options())
    start = model._cached_continuous_batching_manager.start
    assert model.init_continuous_batching().start is start and start.inner.__func__ is type(start.inner.__self__).start


def test_detach_gives_it_back(loaded: Meteora) -> None:
    model = loaded.model
    entrance = model.init_continuous_batching
    loaded.detach()
    assert "init_continuous_batching" not in vars(model)
    assert "start" not in vars(entrance(**options()))  # who kept it has what it was
