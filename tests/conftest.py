"""What many tests begin with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import meteora_rs
import pytest
import torch
from cuda_emulator.build import build
from meteora_rs import Meteora, MeteoraConfig, _native
from meteora_rs.errors import MeteoraError
from tiers_case import NAMES, attached
from tiny import adapter, tiny_model
from transformers import PreTrainedModel


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    """The same random numbers for each test, and one thread: what is tiny gains nothing from a second one."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model() -> PreTrainedModel:
    """A tiny random LLaMA of two layers."""
    return tiny_model()


@pytest.fixture
def meteora(model: PreTrainedModel) -> Iterator[Meteora]:
    """`model`, attached, without adapters; room for four, and for few rank rows."""
    attached = meteora_rs.attach(model, MeteoraConfig(max_adapters=4, pool_rank=64))
    yield attached
    attached.detach()


@pytest.fixture
def tiered(model: PreTrainedModel) -> Iterator[Meteora]:
    """`model`, attached, with two slots, and five adapters registered with the host, "a" to "e"."""
    tiered = attached(model)
    for seed, name in enumerate(NAMES):
        tiered.register_adapter(adapter(model, 4, seed=seed), name)
    yield tiered
    tiered.detach()


@pytest.fixture
def loaded(meteora: Meteora) -> Meteora:
    """`meteora` with three adapters of unequal ranks, types and targets, all with Arrow's gates."""
    model = meteora.model
    meteora.load_adapter(adapter(model, 4, seed=1), "math")
    meteora.load_adapter(adapter(model, 8, seed=2, dtype=torch.bfloat16), "law")
    meteora.load_adapter(adapter(model, 3, seed=3, targets=("q_proj", "down_proj")), "sql")
    return meteora


@pytest.fixture(scope="session")
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
