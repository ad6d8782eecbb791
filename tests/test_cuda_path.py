"""From Python through the torch op and the Rust launcher to the kernels, on the emulator: no GPU is needed.

What it can't show: speed, and what only the hardware orders (streams, graphs, memory that the driver moves).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import meteora_rs
import pytest
import torch
from cuda_emulator.build import build
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, _native
from meteora_rs.errors import MeteoraError
from meteora_rs.ops.reference import gated_lora as reference
from op_case import OpCase, make_case
from plain_op import plain
from test_op import records
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from tolerance import assert_close_to_reference
from torch import Tensor
from transformers import PreTrainedModel


@pytest.fixture(scope="module")
def emulator() -> None:
    """The emulator as this process's CUDA driver."""
    try:
        library = build()
    except FileNotFoundError:
        pytest.skip("the emulator needs g++")
    os.environ["METEORA_LIBCUDA"] = str(library)
    try:
        _native.emulate_cuda(True)
    except MeteoraError as error:
        if "is no emulator" not in str(error):
            raise
        pytest.skip(f"this process uses a CUDA driver already: {error}")
    finally:
        del os.environ["METEORA_LIBCUDA"]
    _native.emulate_cuda(False)


@pytest.fixture
def on_device(emulator: None) -> Iterator[None]:
    """Inside the test, what is on the CPU goes through the CUDA path."""
    _native.emulate_cuda(True)
    yield
    _native.emulate_cuda(False)


def op(case: OpCase) -> Tensor:
    out: Tensor = torch.ops.meteora_rs.gated_lora(*case.args())
    return out


CASES = {
    "decode": ((7, 1), 133, 64, torch.float32),
    "decode bf16": ((7, 1), 64, 133, torch.bfloat16),
    "decode f16": ((7, 2), 64, 65, torch.float16),
    "prefill": ((7, 13), 64, 133, torch.float32),
    "prefill bf16": ((7, 13), 133, 64, torch.bfloat16),
}


@pytest.mark.parametrize("name", CASES)
def test_the_op_is_what_the_specification_says(on_device: None, name: str) -> None:
    shape, d_in, d_out, dtype = CASES[name]
    case = make_case([4, 0, 8, 3, 16], *records(5), shape=shape, d_in=d_in, d_out=d_out, x_dtype=dtype, sign_free=[2])
    assert_close_to_reference(op(case), reference(*case.args()), plain(case, dtype))


def test_strided_arguments(on_device: None) -> None:
    from dataclasses import replace

    case = make_case([4, 8], *records(2), shape=(7, 4))
    strided = replace(case, x=case.x.transpose(0, 1).contiguous().transpose(0, 1),
                      base=torch.stack([case.base, case.base], -1)[..., 1])  # fmt: skip
    before = strided.base.clone()
    assert equal(op(strided), op(case))
    assert equal(strided.base, before)


def load(model: PreTrainedModel) -> Meteora:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=4, pool_rank=64))
    meteora.load_adapter(adapter(model, 4, seed=1), "math")
    meteora.load_adapter(adapter(model, 8, seed=2, dtype=torch.bfloat16), "law", gate=gate_rows(meteora, 2))
    meteora.load_adapter(adapter(model, 3, seed=3, targets=("q_proj", "down_proj")), "sql")
    return meteora


ROUTES = [Auto(), Mix({"math": 0.7, "law": 0.3}), "__base__"]


def story(model: PreTrainedModel) -> list[Tensor]:
    """What a model says while adapters come, change and go."""
    meteora = load(model)
    said = []

    def say(routes: object) -> None:
        with meteora.routing(routes):  # type: ignore[arg-type]
            said.append(logits(model, prompt()))
            said.append(model.generate(prompt(length=4), max_new_tokens=5, do_sample=False))

    say(Auto())
    say(ROUTES)
    meteora.reload_adapter("math", adapter(model, 16, seed=11))
    say("math")
    meteora.unload_adapter("sql")
    meteora.load_adapter(adapter(model, 2, seed=5), "late", gate=gate_rows(meteora, 5, equal=False))
    say([Auto(only=["late", "law"]), "late", Auto()])
    meteora.set_gates({"late": gate_rows(meteora, 6), "__base__": gate_rows(meteora, 7)})
    said.append(logits(model, prompt(length=40)))
    meteora.detach()
    return said


def test_a_models_story_is_the_same_as_on_the_cpu(emulator: None) -> None:
    on_cpu = story(tiny_model())
    _native.emulate_cuda(True)
    try:
        on_device = story(tiny_model())
    finally:
        _native.emulate_cuda(False)
    for one, other in zip(on_cpu, on_device, strict=True):
        if one.is_floating_point():
            torch.testing.assert_close(other, one, rtol=2e-4, atol=2e-4)
        else:
            assert torch.equal(one, other)
