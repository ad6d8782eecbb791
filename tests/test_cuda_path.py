"""From Python through the torch op and the Rust launcher to the kernels, on the emulator: no GPU is needed.

What it can't show: speed, and what only the hardware orders (streams, graphs, memory that the driver moves).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, Route, _native
from meteora_rs.ops.reference import gated_lora as reference
from op_case import OpCase, make_case
from plain_op import plain
from routed_reference import reference_model_output, relative_error
from test_op import records
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from tolerance import assert_close_to_reference
from torch import Tensor
from transformers import PreTrainedModel


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


MIXED: list[Route] = [Auto(), Mix({"math": 0.7, "law": 0.3}), "__base__"]


@dataclass
class Said:
    """What a model said at one point of a story: logits and their reference, tokens, each adapter's weights."""

    logits: Tensor
    reference: Tensor
    tokens: Tensor
    weights: Tensor


def story(model: PreTrainedModel) -> list[Said]:
    """What a model says while adapters come, change and go."""
    stock = tiny_model()
    meteora = load(model)
    said = []

    def say(routes: Route | list[Route], length: int = 7) -> None:
        ids = prompt(length=length)
        with meteora.routing(routes):
            out = logits(model, ids)
            tokens = model.generate(ids[:, :4], max_new_tokens=5, do_sample=False)
            with meteora.trace() as trace:
                logits(model, ids)
        said.append(Said(out, reference_model_output(stock, meteora, routes, ids), tokens,
                         torch.as_tensor(trace.token_weights())))  # fmt: skip

    say(Auto())
    say(MIXED)
    meteora.reload_adapter("math", adapter(model, 16, seed=11))
    say("math")
    meteora.unload_adapter("sql")
    meteora.load_adapter(adapter(model, 2, seed=5), "late", gate=gate_rows(meteora, 5, equal=False))
    say([Auto(only=["late", "law"]), "late", Auto()])
    meteora.set_gates({"late": gate_rows(meteora, 6), "__base__": gate_rows(meteora, 7)})
    say(Auto(), length=24)  # more tokens than the decode kernels take
    meteora.detach()
    return said


def test_a_models_story_is_the_same_as_on_the_cpu(emulator: None) -> None:
    told = story(tiny_model())
    _native.emulate_cuda(True)
    try:
        retold = story(tiny_model())
    finally:
        _native.emulate_cuda(False)
    for on_cpu, on_device in zip(told, retold, strict=True):
        allowed = max(2 * relative_error(on_cpu.logits, on_cpu.reference), 2e-5)
        assert relative_error(on_device.logits, on_cpu.reference) < allowed
        assert torch.equal(on_cpu.tokens, on_device.tokens)
        torch.testing.assert_close(on_device.weights, on_cpu.weights, rtol=0, atol=1e-4)


def test_a_tokens_bits_do_not_depend_on_its_batch(on_device: None) -> None:
    every, rows = records(5)
    case = make_case([4, 0, 8, 3, 16], every, rows, shape=(7, 2), d_in=133, d_out=64)
    whole = op(case)
    for row, route in enumerate(rows):
        alone = replace(case, x=case.x[row : row + 1], base=case.base[row : row + 1])
        assert equal(op(alone.with_routes(every, [route])), whole[row : row + 1])


def test_gradients_are_those_of_the_cpu(emulator: None) -> None:
    def gradient(model: PreTrainedModel) -> Tensor:
        meteora = load(model)
        x = model.get_input_embeddings()(prompt()).detach().requires_grad_()
        with meteora.routing(Auto()):
            model(inputs_embeds=x).logits.square().mean().backward()
        meteora.detach()
        assert x.grad is not None
        return x.grad

    on_cpu = gradient(tiny_model())
    _native.emulate_cuda(True)
    try:
        on_device = gradient(tiny_model())
    finally:
        _native.emulate_cuda(False)
    assert relative_error(on_device, on_cpu) < 1e-4


def test_without_the_emulator_there_is_nothing_to_emulate(tmp_path: Path) -> None:
    code = "from meteora_rs import _native; _native.emulate_cuda(True)"
    missing = str(tmp_path / "libnone.so")
    environment = {**os.environ, "METEORA_LIBCUDA": missing}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"MeteoraError: no CUDA driver: {missing} can't be opened" in done.stderr
