"""torch.compile: one graph without breaks, whatever is routed, loaded, reloaded or unloaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix
from meteora_rs.errors import RouteError
from meteora_rs.routing import plan as plans
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import PreTrainedModel


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No graph of another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def attached() -> Meteora:
    meteora = meteora_rs.attach(tiny_model(), MeteoraConfig(max_adapters=4, pool_rank=64))
    for seed, name in enumerate(("math", "law")):
        meteora.load_adapter(adapter(meteora.model, 4 + seed, seed=seed), name, gate=gate_rows(meteora, seed))
    return meteora


def run(compiled: Any, meteora: Meteora, routes: Any, ids: Tensor) -> None:
    """The compiled model against the eager one."""
    with torch.no_grad(), meteora.routing(routes):
        actual, expected = compiled(ids).logits, logits(meteora.model, ids)
    assert torch.allclose(actual, expected, atol=2e-4), (routes, (actual - expected).abs().max())


def test_one_graph_for_all_that_changes(attached: Meteora) -> None:
    model, ids = attached.model, prompt(4)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for routes in (
        Auto(), "math", "__base__", Mix({"math": 0.5, "law": 2.0}), ["math", "law"] * 2,
        ["math", Auto(), "__base__", Auto(only=["law"])], Auto(only=["math"]), ["math"] * 4,
    ):  # fmt: skip
        run(compiled, attached, routes, ids)
    attached.load_adapter(adapter(model, 8, seed=5), "new")
    run(compiled, attached, "new", ids)
    attached.reload_adapter("new", adapter(model, 16, seed=6, dtype=torch.bfloat16))
    run(compiled, attached, ["new", "math"] * 2, ids)
    attached.unload_adapter("math")
    run(compiled, attached, Auto(), ids)
    for name in ("law", "new"):
        attached.unload_adapter(name)
    run(compiled, attached, Auto(), ids)
    with torch.no_grad():
        out = compiled(ids).logits
    assert torch.allclose(out, logits(tiny_model(), ids), atol=2e-4)
    assert counter.frame_count == 1


def test_compiled_without_adapters_first_and_by_default(model: PreTrainedModel) -> None:
    meteora, ids = meteora_rs.attach(model), prompt(2)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for seed in range(3):
        with torch.no_grad():
            assert torch.allclose(compiled(ids).logits, logits(model, ids), atol=2e-4)
        meteora.load_adapter(adapter(model, 8, seed=seed), f"a{seed}")
    assert counter.frame_count == 1


@pytest.mark.parametrize(("fullgraph", "error"), [(False, RouteError), (True, torch._dynamo.exc.Unsupported)])
def test_where_blocks_are_required_the_one_graph_serves_none_outside(
    model: PreTrainedModel, fullgraph: bool, error: type[Exception]
) -> None:
    meteora = meteora_rs.attach(model, MeteoraConfig(require_routing=True))
    for seed, name in enumerate(("math", "law")):
        meteora.load_adapter(adapter(model, 4, seed=seed), name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=fullgraph)
    for routes in ("math", Auto(), ["math", "law"]):
        with pytest.raises(error, match=r"with meteora.routing"):
            compiled(prompt(2))
        run(compiled, meteora, routes, prompt(2))
    assert counter.frame_count == 1


def test_so_it_is_on_a_device(attached: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    """There its routes are copies, made when the plan is. Here they are the CPU's."""
    monkeypatch.setattr(plans, "copied", lambda tensor, place: tensor.clone())
    monkeypatch.setattr(plans, "current_stream", lambda place: 7)
    attached._context._add_place(0)
    for site in attached.sites:
        site.place = 0
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(attached.model, backend=counter, fullgraph=True)
    for routes in (Auto(), "math", ["math", "law"]):
        run(compiled, attached, routes, prompt(2))
    attached.load_adapter(adapter(attached.model, 8, seed=5), "new")
    with torch.no_grad():
        assert torch.allclose(compiled(prompt(2)).logits, logits(attached.model, prompt(2)), atol=2e-4)
    assert counter.frame_count == 1


def test_a_compiled_base_row_is_the_base(attached: Meteora) -> None:
    ids = prompt(2)
    stock = torch.compile(tiny_model(), backend="aot_eager")
    compiled = torch.compile(attached.model, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), attached.routing(["__base__", "math"]):
        mixed = compiled(ids).logits
    with torch.no_grad():
        assert equal(mixed[0], stock(ids).logits[0])


def test_an_open_block_keeps_its_adapters_when_compiled(attached: Meteora) -> None:
    ids = prompt(2)
    compiled = torch.compile(attached.model, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), attached.routing(Auto()):
        before = compiled(ids).logits
        attached.unload_adapter("math")
        attached.load_adapter(adapter(attached.model, 8, seed=9), "new")
        assert equal(compiled(ids).logits, before)


def test_gradients_of_the_input_when_compiled(attached: Meteora) -> None:
    embeds = attached.model.get_input_embeddings()(prompt(2)).detach()
    compiled = torch.compile(attached.model, backend="aot_eager", fullgraph=True)
    grads = []
    for forward in (attached.model, compiled):
        leaf = embeds.clone().requires_grad_()
        with attached.routing(["math", Auto()]):
            forward(inputs_embeds=leaf).logits.square().mean().backward()
        grads.append(leaf.grad)
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-6)


def test_detach_leaves_a_model_that_compiles(attached: Meteora) -> None:
    model, ids = attached.model, prompt(2)
    attached.detach()
    with torch.no_grad():
        out = torch.compile(model, backend="aot_eager", fullgraph=True)(ids).logits
    assert torch.allclose(out, logits(tiny_model(), ids), atol=2e-4)


def test_a_recorded_linear_keeps_its_adapters(attached: Meteora) -> None:
    linear = attached.model.requires_grad_(False).model.layers[1].mlp.up_proj
    x, other = torch.randn(2, 2, 3, 64)
    with torch.no_grad(), attached.routing(["math", Auto()]):
        assert equal(make_fx(linear)(x)(other), linear(other))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_inductor(attached: Meteora) -> None:
    compiled = torch.compile(attached.model, fullgraph=True)
    for routes in (["math", "__base__"], Auto(), "law"):
        run(compiled, attached, routes, prompt(2))
