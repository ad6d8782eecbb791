"""Linears with one input, on the emulator: what their leader computes serves the others only where it may."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import meteora_rs
import pytest
import torch
from cuda_call import library
from meteora_rs import Auto, Meteora, MeteoraConfig, _native
from tiny import adapter, equal, gate_rows, tiny_model
from torch import Tensor, nn

TOKENS = {"decode": 5, "dense": 1, "prefill": 70}
LAUNCHES = {"decode": 3, "dense": 2, "prefill": 5}


@pytest.fixture
def meteora(on_device: None) -> Iterator[Meteora]:
    """Two adapters whose gate rows are those of their group."""
    model = tiny_model()
    attached = meteora_rs.attach(model, MeteoraConfig(max_adapters=3, pool_rank=32))
    attached.load_adapter(adapter(model, 4, seed=1), "math", gate=gate_rows(attached, 1))
    attached.load_adapter(adapter(model, 8, seed=2, dtype=torch.bfloat16), "law", gate=gate_rows(attached, 2))
    yield attached
    attached.detach()


def group_of(meteora: Meteora) -> list[nn.Linear]:
    """q, k and v of the first layer."""
    attention = meteora.model.get_submodule("model.layers.0.self_attn")
    return [attention.get_submodule(f"{name}_proj") for name in "qkv"]  # type: ignore[misc]


def hidden(tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(seed))


def alone(linear: nn.Linear, x: Tensor) -> Tensor:
    """What a linear says of an input that nobody has seen."""
    return linear(x.clone())


@contextmanager
def counted(expected: int) -> Iterator[None]:
    """So many kernels are launched inside."""
    before = library().meteora_emulator_launches()
    yield
    assert library().meteora_emulator_launches() - before == expected


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("form", TOKENS)
def test_followers_only_expand(meteora: Meteora, form: str, shared: bool) -> None:
    if not shared:
        meteora.set_gates({"law": gate_rows(meteora, 3, equal=False)})
    x, group = hidden(TOKENS[form]), group_of(meteora)
    with torch.no_grad(), meteora.routing(Auto()):
        expected = [alone(linear, x) for linear in group]
        with counted(LAUNCHES[form] + 2):
            outputs = [linear(x) for linear in group]
        for out, by_itself in zip(outputs, expected, strict=True):
            assert equal(out, by_itself)


@pytest.mark.parametrize("form", TOKENS)
def test_gate_rows_that_are_equal_are_read_once(meteora: Meteora, form: str) -> None:
    x, group = hidden(TOKENS[form]), group_of(meteora)
    with torch.no_grad(), meteora.routing(Auto()):
        expected = [alone(linear, x) for linear in group]
        for linear in group[1:]:
            linear.get_submodule("meteora_site").gate.fill_(torch.nan)  # with which they would choose nothing
        assert all(equal(linear(x), right) for linear, right in zip(group, expected, strict=True))


def test_what_is_worked_off_in_parts_leaves_nothing_to_followers(on_device: None) -> None:
    model = tiny_model()
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=3, pool_rank=1 << 16))  # 0.75 MB a token, of 64
    meteora.load_adapter(adapter(model, 4, seed=1), "math")
    x, (q, k, _) = hidden(90), group_of(meteora)
    with torch.no_grad(), meteora.routing("math"):
        q(x)
        assert equal(k(x), alone(k, x))


def test_in_any_order_and_as_often_as_one_likes(meteora: Meteora) -> None:
    x = hidden(5)
    q, k, v = group_of(meteora)
    with torch.no_grad(), meteora.routing("math"):
        expected = {linear: alone(linear, x) for linear in (q, k, v)}
        for order in ([k], [q, v, k], [q, k, k, v], [v, q, q, v], [k, q, v, v]):
            for linear in order:
                assert equal(linear(x), expected[linear])


def test_a_follower_may_have_moved_since(meteora: Meteora) -> None:
    q, k, _ = group_of(meteora)
    x, site = hidden(5), k.get_submodule("meteora_site")
    with torch.no_grad(), meteora.routing("math"):
        of_k = alone(k, x)
        q(x)
        before = [site.lora_B_packed, site.table]
        site._buffers.update({name: buffer.clone() for name, buffer in site.named_buffers()})
        site._bind()
        for buffer in before:
            buffer.zero_()
        assert equal(k(x), of_k)


def test_nobody_holds_an_input_that_all_have_seen(meteora: Meteora) -> None:
    x = hidden(5)
    seen = weakref.ref(x)
    with torch.no_grad(), meteora.routing("math"):
        for linear in group_of(meteora):
            linear(x)
        del x
        assert seen() is None


def test_an_input_that_has_changed_is_another(meteora: Meteora) -> None:
    q, k, v = group_of(meteora)
    x, other = hidden(5), hidden(5, seed=1)
    with torch.no_grad(), meteora.routing("math"):
        of_k, of_v = alone(k, other), alone(v, other)
        q(x)
        assert equal(k(other), of_k)
        q(x)
        x.copy_(other)
        assert equal(k(x), of_k)
        q(x)
        x.view(-1).mul_(2)
        x.copy_(other)
        assert equal(v(x), of_v)
        x.copy_(hidden(5))
        q(x)
        x.data = other
        assert equal(v(x), of_v)


def test_the_same_memory_as_another_tensor_is_another_input(meteora: Meteora) -> None:
    """Which has a counter of its own, that says nothing of what was written by the first."""
    q, k, _ = group_of(meteora)
    memory = hidden(5).numpy()
    x, same = torch.from_numpy(memory), torch.from_numpy(memory)
    with torch.no_grad(), meteora.routing("math"):
        q(x)
        memory[:] = hidden(5, seed=1).numpy()
        assert equal(k(same), alone(k, same))


def test_memory_that_is_read_as_another_type_or_shape_is_another_input(meteora: Meteora) -> None:
    q, k, _ = group_of(meteora)
    with torch.no_grad(), meteora.routing("math"), torch.autocast("cpu", torch.bfloat16):
        x = hidden(4)
        q(x)
        x.data = x.data[:, :2]
        assert equal(k(x), alone(k, x))
        q(x)
        x.data = x.data.view(torch.bfloat16).flatten()[:128].view(1, 2, 64)
        assert equal(k(x), alone(k, x))


def test_under_inference_mode_nobody_counts_writes(meteora: Meteora) -> None:
    q, k, _ = group_of(meteora)
    with torch.inference_mode(), meteora.routing("math"):
        x = hidden(5) + 0
        q(x)
        x.copy_(hidden(5, seed=1))
        assert equal(k(x), alone(k, hidden(5, seed=1)))


def test_another_route_is_another_choice(meteora: Meteora) -> None:
    q, k, _ = group_of(meteora)
    x = hidden(5)
    with torch.no_grad():
        with meteora.routing("math"):
            q(x)
            with meteora.routing("law"):
                out = k(x)
        with meteora.routing("law"):
            assert equal(out, alone(k, x))


def test_another_stream_does_not_wait_for_the_leader(meteora: Meteora) -> None:
    q, k, _ = group_of(meteora)
    x = hidden(5)
    with torch.no_grad(), meteora.routing("math"):
        q(x)
        _native.emulate_cuda(True, stream=1)
        with counted(LAUNCHES["decode"]):
            k(x)


def test_inputs_that_are_not_contiguous(meteora: Meteora) -> None:
    x = hidden(10)[:, ::2]
    with torch.no_grad(), meteora.routing("math"):
        for linear in group_of(meteora):
            assert equal(linear(x), alone(linear, x.contiguous()))


def test_outputs_of_other_types(meteora: Meteora) -> None:
    q, k, _ = group_of(meteora)
    k.half()
    x = hidden(5)
    with torch.no_grad(), meteora.routing("math"), torch.autocast("cpu", torch.bfloat16):
        outputs = [q(x), k(x)]
        for linear, out in zip((q, k), outputs, strict=True):
            assert out.dtype == torch.bfloat16
            assert equal(out, alone(linear, x))


def test_a_trace_has_the_choice_of_each(meteora: Meteora) -> None:
    meteora.set_gates({"law": gate_rows(meteora, 3, equal=False)})
    x, group = hidden(5), group_of(meteora)
    found = []
    with torch.no_grad(), meteora.routing(Auto()):
        for given in (lambda: x, x.clone):
            with meteora.trace() as trace:
                for linear in group:
                    linear(given())
            found.append(torch.as_tensor(trace.token_weights()))
    assert torch.equal(*found)


def test_other_threads_have_calls_of_their_own(meteora: Meteora) -> None:
    x, group = hidden(5), group_of(meteora)
    wrong = []

    def go(route: str) -> None:
        with torch.no_grad(), meteora.routing(route):
            expected = [alone(linear, x) for linear in group]
            for _ in range(20):
                for linear, right in zip(group, expected, strict=True):
                    if not equal(linear(x), right):
                        wrong.append(route)

    threads = [threading.Thread(target=go, args=(route,)) for route in ("math", "law")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_a_capture_has_only_noted_serves_nobody_outside(meteora: Meteora) -> None:
    q, k, v = group_of(meteora)
    x = hidden(5)
    with torch.no_grad(), meteora.routing("math"):
        of_k, of_v = alone(k, x), alone(v, x)
        library().meteora_emulator_capture(1)
        q(x)
        library().meteora_emulator_capture(0)
        assert equal(k(x), of_k)
        q(x)
        library().meteora_emulator_capture(1)
        out = v(x)
        library().meteora_emulator_capture(0)
        assert library().meteora_emulator_replay() == 0
        assert equal(out, of_v)
