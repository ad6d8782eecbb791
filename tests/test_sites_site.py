"""A site's buffers stay what they are, and what does not fit them is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import meteora_rs
import pytest
import torch
from meteora_rs import Meteora
from meteora_rs.errors import MeteoraError
from tiny import adapter, equal, logits, prompt, tiny_model
from torch import nn
from transformers import PreTrainedModel

BUFFERS = ("gate", "gate_bias", "gate_screen", "lora_A", "lora_B_packed", "table")


def narrow(linear: nn.Linear, inputs: int, outputs: int) -> None:
    """Another weight for a linear, as pruning a stock model gives it."""
    linear.weight = nn.Parameter(linear.weight[:outputs, :inputs].detach().clone())


@pytest.mark.parametrize("train", [False, True])
def test_a_weight_of_another_shape_is_refused(loaded: Meteora, model: PreTrainedModel, train: bool) -> None:
    mlp = model.model.layers[0].mlp
    narrow(mlp.gate_proj, 64, 20)
    narrow(mlp.up_proj, 64, 20)
    narrow(mlp.down_proj, 20, 64)
    model.train(train)
    message = "model.layers.0.mlp.gate_proj: attached with 64 → 133 features, called with [3, 7, 64] → [3, 7, 20]"
    with pytest.raises(MeteoraError, match=re.escape(message)):
        model(prompt())
    narrow(mlp.gate_proj, 64, 20)
    for site in (mlp.gate_proj, mlp.up_proj):
        site.weight = nn.Parameter(torch.zeros(133, 64))
    message = "model.layers.0.mlp.down_proj: attached with 133 → 64 features"
    with pytest.raises(MeteoraError, match=re.escape(message)), torch.set_grad_enabled(train):
        mlp.down_proj(torch.zeros(3, 20))


def test_features_that_shrink_in_proportion_are_refused(loaded: Meteora, model: PreTrainedModel) -> None:
    """The number of elements is then that of half as many tokens."""
    linear = model.model.layers[0].self_attn.q_proj
    narrow(linear, 32, 32)
    with pytest.raises(MeteoraError, match="called with"):
        linear(torch.zeros(1, 4, 32))


def test_the_base_may_be_pruned(loaded: Meteora, model: PreTrainedModel) -> None:
    narrow(model.model.layers[0].self_attn.q_proj, 32, 32)
    with loaded.routing("__base__"):
        assert model.model.layers[0].self_attn.q_proj(torch.zeros(1, 4, 32)).shape == (1, 4, 32)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "type": lambda model: model.type(torch.float32),
    "type_and_back": lambda model: model.type(torch.bfloat16).type(torch.float32),
}


@pytest.mark.parametrize("change", CHANGES)
def test_casts_of_integers_leave_buffers_as_they_are(loaded: Meteora, model: PreTrainedModel, change: str) -> None:
    before = [[getattr(site, name).clone() for name in BUFFERS] for site in loaded.sites]
    addresses = [[getattr(site, name).data_ptr() for name in BUFFERS] for site in loaded.sites]
    CHANGES[change](model)
    for site, tensors in zip(loaded.sites, before, strict=True):
        assert all(equal(getattr(site, name), tensor) for name, tensor in zip(BUFFERS, tensors, strict=True))
    assert [[getattr(site, name).data_ptr() for name in BUFFERS] for site in loaded.sites] == addresses
    with loaded.routing("math"):
        assert logits(model, prompt()).isfinite().all()


def test_memory_that_is_emptied_keeps_adapters(loaded: Meteora, model: PreTrainedModel) -> None:
    with loaded.routing(["math", "law", "sql"]):
        before = logits(model, prompt())
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inverse = model.model.rotary_emb.inv_freq.clone()
    model.to_empty(device="cpu")
    model.load_state_dict(weights)
    model.model.rotary_emb.inv_freq.copy_(inverse)
    with loaded.routing(["math", "law", "sql"]):
        assert equal(logits(model, prompt()), before)


def test_buffers_of_another_form_are_not_bound(loaded: Meteora) -> None:
    site = loaded.sites[0]
    for name, other, found in (
        ("gate", site.gate.half(), "float16"),
        ("gate_bias", site.gate_bias[:1], "float32 [1]"),
        ("table", site.table.t().contiguous().t(), "not contiguous"),
        ("lora_A", site.lora_A[:64], "uint8 [64]"),
    ):
        whole = site._buffers[name]
        site._buffers[name] = other
        with pytest.raises(MeteoraError, match=re.escape(f"model.layers.0.self_attn.q_proj: {name}: ")) as refused:
            loaded.model.half()
        assert found in str(refused.value)
        site._buffers[name] = whole


def test_a_panic_in_the_forward_is_an_exception(loaded: Meteora, model: PreTrainedModel) -> None:
    for length in (1, 30):  # with the GIL, and without
        site = loaded.sites[0]
        table = site.table.clone()
        site.table[:, 0] = 1 << 30
        with loaded.routing("math"), pytest.raises(MeteoraError, match="internal error, please report it: range start"):
            logits(model, prompt(1, length))
        site.table.copy_(table)
        with loaded.routing("math"):
            assert logits(model, prompt(1, length)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_buffers_are_float32_whatever_the_default(dtype: torch.dtype) -> None:
    model, ids = tiny_model(), prompt()
    torch.set_default_dtype(dtype)
    try:
        meteora = meteora_rs.attach(model)
        assert {meteora.sites[0].gate.dtype, meteora.sites[0].gate_bias.dtype} == {torch.float32}
        for index in range(32):
            meteora.load_adapter(adapter(model, 4, seed=index), f"a{index}")
        assert logits(model, ids).isfinite().all()
    finally:
        torch.set_default_dtype(torch.float32)
