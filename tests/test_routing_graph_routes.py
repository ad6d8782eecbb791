"""Captured graphs, on the emulator: they follow the routes that are open when they are replayed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from cuda_call import library
from meteora_rs import Auto, Meteora, Mix, Route
from meteora_rs.errors import MeteoraError
from tiny import adapter, equal, gate_rows
from torch import Tensor, nn

PATHS = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]


@pytest.fixture
def device(on_device: None, meteora: Meteora) -> Meteora:
    """Attached on the emulated device, with two adapters."""
    meteora.load_adapter(adapter(meteora.model, 4, seed=1), "math")
    meteora.load_adapter(adapter(meteora.model, 8, seed=2, dtype=torch.bfloat16), "law", gate=gate_rows(meteora, 2))
    return meteora


def group_of(meteora: Meteora) -> list[nn.Linear]:
    return [meteora.model.get_submodule(path) for path in PATHS]  # type: ignore[misc]


class Graph:
    """q, k and v of one layer in a graph; the base's products, which the emulator can't capture, are done outside."""

    def __init__(self, meteora: Meteora, x: Tensor) -> None:
        self.linears, self.x = group_of(meteora), x
        library().meteora_emulator_capture(1)
        try:
            with torch.no_grad():
                self.outputs = [linear(x) for linear in self.linears]
        finally:
            library().meteora_emulator_capture(0)

    @torch.no_grad()
    def replay(self) -> list[Tensor]:
        for linear, out in zip(self.linears, self.outputs, strict=True):
            out.copy_(nn.functional.linear(self.x, linear.weight, linear.bias))
        assert library().meteora_emulator_replay() == 0
        return [out.clone() for out in self.outputs]


@torch.no_grad()
def eager(meteora: Meteora, x: Tensor) -> list[Tensor]:
    return [linear(x.clone()) for linear in group_of(meteora)]


@pytest.fixture
def graph(device: Meteora) -> Graph:
    """Captured under one route of four tokens, each a row of its own."""
    with device.routing("math"):
        return Graph(device, torch.randn(4, 1, 64))


def same(graph: Graph, meteora: Meteora) -> bool:
    """Whether a replay says what the model says now, to the bit."""
    return all(equal(*pair) for pair in zip(graph.replay(), eager(meteora, graph.x), strict=True))


def test_a_replay_follows_the_routes_that_are_open(device: Meteora, graph: Graph) -> None:
    every: list[Route | list[Route]] = [
        "math", "law", Auto(), Mix({"math": 0.7, "law": 0.3}), "__base__", Auto(only=["law"]),
        ["math", Auto(), "__base__", Mix({"law": 1.5})], ["law", "math"],
    ]  # fmt: skip
    for routes in every:
        with device.routing(routes):
            assert same(graph, device), routes
    for top_k, temperature in ((1, 1.0), (2, 0.3)):
        with device.routing(Auto(), top_k=top_k, temperature=temperature):
            assert same(graph, device)


def test_so_does_one_of_many_tokens(device: Meteora) -> None:
    with device.routing("math"):
        graph = Graph(device, torch.randn(2, 40, 64))
    for routes in (Auto(), ["law", Auto()], Mix({"math": 0.7, "law": 0.3})):
        with device.routing(routes):
            assert same(graph, device)


def test_captured_for_the_base_it_follows_too(device: Meteora) -> None:
    with device.routing("__base__"):
        graph = Graph(device, torch.randn(4, 1, 64))
        assert same(graph, device)
    with device.routing("math"):
        assert same(graph, device)


def test_and_other_inputs_at_the_same_place(device: Meteora, graph: Graph) -> None:
    with device.routing(Auto()):
        before = graph.replay()
        graph.x.copy_(torch.randn(4, 1, 64))
        assert same(graph, device)
        assert not equal(graph.replay()[0], before[0])


def test_adapters_come_change_and_go_between_replays(device: Meteora, graph: Graph) -> None:
    device.load_adapter(adapter(device.model, 3, seed=3), "late", gate=gate_rows(device, 3, equal=False))
    with device.routing("late"):
        assert same(graph, device)
    with device.routing(Auto()):  # q's choice is no longer that of k and v
        assert same(graph, device)
    device.reload_adapter("math", adapter(device.model, 16, seed=11))
    with device.routing(["math", "law", "late", Auto()]):
        assert same(graph, device)
        held = graph.replay()
        device.reload_adapter("law", adapter(device.model, 2, seed=12))
        assert all(equal(*pair) for pair in zip(graph.replay(), held, strict=True))
    device.unload_adapter("late")
    with device.routing(Auto()):
        assert same(graph, device)


def test_blocks_within_blocks(device: Meteora, graph: Graph) -> None:
    with device.routing("math"):
        with device.routing("law"):
            with device.trace():
                assert same(graph, device)
            assert same(graph, device)
        assert same(graph, device)


def test_gates_that_were_equal_at_the_capture_may_differ_later(device: Meteora) -> None:
    device.set_gates({"math": gate_rows(device, 1)})
    with device.routing(Auto()):
        graph = Graph(device, torch.randn(4, 1, 64))
    device.set_gates({"math": gate_rows(device, 3, equal=False)})
    with device.routing(Auto()):
        assert all(equal(*pair) for pair in zip(graph.replay(), eager(device, graph.x), strict=True))


def test_outside_of_routing_a_graph_uses_no_adapter(device: Meteora, graph: Graph) -> None:
    with device.routing("__base__"):
        base = eager(device, graph.x)
    assert all(equal(*pair) for pair in zip(graph.replay(), base, strict=True))


def test_a_capture_needs_routing(device: Meteora) -> None:
    with pytest.raises(MeteoraError, match=r"open routing\(\) around the capture"):
        Graph(device, torch.randn(4, 1, 64))


def test_what_would_bake_its_routes_in_is_refused(device: Meteora) -> None:
    x = torch.randn(4, 1, 64)
    with device.routing("math"), pytest.raises(MeteoraError, match="would keep the routes of now"):
        library().meteora_emulator_capture(1)
        try:
            group_of(device)[0](x)  # its weight has a gradient
        finally:
            library().meteora_emulator_capture(0)


def elsewhere(act: Callable[[], object]) -> list[str]:
    """What is raised by a thread of its own."""
    errors = []

    def go() -> None:
        try:
            act()
        except MeteoraError as error:
            errors.append(str(error))

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return errors


def test_requests_that_would_read_anothers_routes_are_refused(device: Meteora) -> None:
    x = torch.randn(4, 1, 64)

    def route() -> None:
        with device.routing("law"):
            eager(device, x)

    def capture() -> None:
        with device.routing("law"):
            Graph(device, x)

    with device.routing("math"):
        assert elsewhere(route) == []  # there is no graph yet: each call has its own routes
        assert ["around the capture" in error for error in elsewhere(capture)] == [True]
        graph = Graph(device, x)
        assert ["one request at a time" in error for error in elsewhere(route)] == [True]
        assert same(graph, device)
        assert elsewhere(lambda: device.model(torch.ones(1, 3, dtype=torch.long))) == []  # no routing() of its own
        assert same(graph, device)
    assert elsewhere(route) == []
    assert device.stats().held == ()


def test_more_routes_than_a_graph_can_read(device: Meteora) -> None:
    many: list[Route] = [Mix({"math": float(weight)}) for weight in range(1, 1100)]
    with device.routing(many):
        with device.routing("math"):
            pass
        eager(device, torch.randn(len(many), 1, 64))
    with device.routing("math"):
        Graph(device, torch.randn(4, 1, 64))
    refused = device.routing(many)
    with pytest.raises(MeteoraError, match="at most 1024 routes, for at most 1024 rows") as kept, refused:
        pass
    assert kept.value and device.stats().held == ()
    assert device.unload_adapter("math", wait=0).memory_free  # neither the error nor the block holds it


def test_a_block_that_was_forgotten_leaves_nothing_behind(device: Meteora, graph: Graph) -> None:
    def forget() -> None:
        device.routing("law").__enter__()

    elsewhere(forget)
    with device.routing("math"):
        assert same(graph, device)


def test_without_a_device_there_is_nothing_to_write(loaded: Meteora) -> None:
    with loaded.routing("math"):
        assert loaded._context.graph_routes._buffers == {}
