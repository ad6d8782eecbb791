"""accelerate's hooks, set before or after `attach`."""

from __future__ import annotations

from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Meteora
from tiny import adapter, equal, linears, logits, prompt, tiny_model
from torch import Tensor, nn

accelerate = pytest.importorskip("accelerate")
hooks = pytest.importorskip("accelerate.hooks")


class Count(hooks.ModelHook):  # type: ignore[name-defined, misc]
    calls = 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        Count.calls += 1
        return args, kwargs


def hook_all(model: nn.Module) -> None:
    for linear in linears(model).values():
        hooks.add_hook_to_module(linear, Count())


def offload(model: nn.Module) -> None:
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def offload_with_buffers(model: nn.Module) -> None:
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)


def expected() -> Tensor:
    meteora = meteora_rs.attach(tiny_model())
    meteora.load_adapter(adapter(meteora.model), "math")
    return named(meteora)


def named(meteora: Meteora) -> Tensor:
    with meteora.routing("math"):
        return logits(meteora.model, prompt())


PLACES = [hook_all, offload, offload_with_buffers]


@pytest.mark.parametrize("place", PLACES)
def test_hooks_that_were_there_before(place: Any) -> None:
    model = tiny_model()
    place(model)
    base = logits(model, prompt())
    assert equal(base, logits(tiny_model(), prompt()))
    meteora = meteora_rs.attach(model)
    assert equal(logits(model, prompt()), base)
    meteora.load_adapter(adapter(tiny_model()), "math")
    Count.calls = 0
    assert equal(named(meteora), expected())
    assert Count.calls == (14 if place is hook_all else 0)
    meteora.detach()
    assert equal(logits(model, prompt()), base)
    hooks.remove_hook_from_submodules(model)
    assert all("_old_forward" not in linear.__dict__ for linear in linears(model).values())
    if place is hook_all:
        assert equal(logits(model, prompt()), base)


@pytest.mark.parametrize("place", PLACES)
def test_hooks_that_came_later(place: Any) -> None:
    model = tiny_model()
    meteora = meteora_rs.attach(model)
    meteora.load_adapter(adapter(model), "math")
    place(model)
    assert equal(named(meteora), expected())
    meteora.load_adapter(adapter(tiny_model(), seed=3), "law")
    assert equal(named(meteora), expected())
    meteora.detach()
    assert equal(logits(model, prompt()), logits(tiny_model(), prompt()))


def test_hooks_that_went_meanwhile() -> None:
    model = tiny_model()
    hook_all(model)
    meteora = meteora_rs.attach(model)
    meteora.load_adapter(adapter(model), "math")
    hooks.remove_hook_from_submodules(model)
    assert equal(named(meteora), expected())
    meteora.detach()
    assert equal(logits(model, prompt()), logits(tiny_model(), prompt()))
    assert all("_old_forward" not in linear.__dict__ for linear in linears(model).values())


def test_torch_hooks_see_the_whole_output(loaded: Meteora) -> None:
    seen = []
    linear = loaded.model.model.layers[0].self_attn.q_proj
    handle = linear.register_forward_hook(lambda _module, inputs, output: seen.append((inputs[0], output)))
    with loaded.routing("math"):
        logits(loaded.model, prompt())
        handle.remove()
        with torch.no_grad():
            assert equal(seen[0][1], linear(seen[0][0]))
    assert not equal(seen[0][1], nn.functional.linear(seen[0][0], linear.weight))
