"""What is asked of the driver, held by the emulator to the rules for contexts, captures, events and early launches."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cuda_call import library
from meteora_rs import Meteora, _native
from tiny import adapter, equal
from torch import Tensor

OLDER_CARD = """
import os, sys
sys.path[:0] = [{tests!r}]
import torch
from meteora_rs import _native
from cuda_call import library
from op_case import make_case
from test_op import ranks, records
_native.emulate_cuda(True)
every, rows = records(5)
for tokens in (1, 13):
    case = make_case(ranks(5), every, rows, shape=(7, tokens), d_in=64, d_out=32, x_dtype=torch.bfloat16)
    torch.ops.meteora_rs.gated_lora(*case.args())
print(library().meteora_emulator_early_launches())
"""


@pytest.fixture
def device(on_device: None, meteora: Meteora) -> Meteora:
    meteora.load_adapter(adapter(meteora.model, 4, seed=1), "math")
    return meteora


def linear(meteora: Meteora, x: Tensor) -> Tensor:
    out: Tensor = meteora.model.get_submodule("model.layers.0.self_attn.q_proj")(x)
    return out


@contextmanager
def capturing() -> Iterator[None]:
    """This thread captures a graph."""
    library().meteora_emulator_capture(1)
    try:
        yield
    finally:
        library().meteora_emulator_capture(0)


def elsewhere(act: Callable[[], object]) -> object:
    """What a thread of its own returns."""
    found: list[object] = []

    def go() -> None:
        with torch.no_grad():
            found.append(act())

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    return found[0]


def test_a_trace_does_not_disturb_the_capture_of_another_thread(device: Meteora) -> None:
    x = torch.randn(1, 5, 64)

    def traced() -> Tensor:
        with device.routing("math"), device.trace() as trace:
            linear(device, x)
        return torch.as_tensor(trace.token_weights())

    expected = elsewhere(traced)
    with capturing():
        assert torch.equal(elsewhere(traced), expected)  # type: ignore[arg-type]


def test_neither_does_a_load(device: Meteora) -> None:
    x = torch.randn(1, 5, 64)
    with capturing():
        elsewhere(lambda: device.load_adapter(adapter(device.model, 4, seed=2), "law"))
        device.reload_adapter("math", adapter(device.model, 8, seed=3))
    with torch.no_grad(), device.routing("law"):
        of_law = linear(device, x)
    with torch.no_grad(), device.routing("math"):
        assert not equal(linear(device, x), of_law)


def test_requests_leave_no_event_behind(device: Meteora) -> None:
    x = torch.randn(1, 5, 64)
    device.reload_adapter("math", adapter(device.model, 4, seed=2))
    before = library().meteora_emulator_events()
    for seed in range(3):
        with torch.no_grad(), device.routing("math"):
            linear(device, x)
        device.reload_adapter("math", adapter(device.model, 4, seed=seed))  # waits for those before
    assert library().meteora_emulator_events() == before


def test_all_launches_of_a_call_but_the_first_may_start_early(device: Meteora) -> None:
    with torch.no_grad(), device.routing("math"):
        for tokens, launches in ((5, 3), (70, 5)):
            before = library().meteora_emulator_early_launches()
            linear(device, torch.randn(1, tokens, 64))
            assert library().meteora_emulator_early_launches() - before == launches - 1


def test_a_card_before_sm_90_starts_none_early_and_has_its_own_limits(emulator: None) -> None:
    code = OLDER_CARD.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "METEORA_LIBCUDA": library()._name, "METEORA_EMULATOR_CAPABILITY": "86"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_nothing_of_cuda_is_linked_and_importing_looks_for_no_driver() -> None:
    needed = subprocess.run(["readelf", "-d", _native.__file__], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in needed
    assert not [line for line in needed.splitlines() if "NEEDED" in line and ("cuda" in line or "torch" in line)]
    code = "import meteora_rs, pathlib; print('libcuda.so' in pathlib.Path('/proc/self/maps').read_text())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")
