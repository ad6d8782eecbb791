"""The model stays the model: before, while and after it is attached."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Meteora, MeteoraConfig, attach_pretrained
from meteora_rs.errors import MeteoraError
from safetensors.torch import load_file
from tiny import MODELS, adapter, equal, gate_rows, linears, logits, prompt, tiny_model
from torch import nn
from transformers import PreTrainedModel


@pytest.mark.parametrize("kind", MODELS)
def test_without_adapters_the_output_is_that_of_the_base(kind: str) -> None:
    model, ids = tiny_model(kind), prompt()
    before = logits(model, ids)
    meteora = meteora_rs.attach(model)
    assert equal(logits(model, ids), before)
    assert len(meteora.sites) == 14 and meteora.adapters() == []


@pytest.mark.parametrize("config", [{}, {"top_k": 1}, MeteoraConfig, 2, "bundle"])
def test_a_config_is_a_config(model: PreTrainedModel, tmp_path: Path, config: Any) -> None:
    for attach in (lambda: meteora_rs.attach(model, config), lambda: attach_pretrained(model, tmp_path, config)):
        with pytest.raises(TypeError, match="config must be a MeteoraConfig or None, not "):
            attach()
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not str"):
        meteora_rs.attach("model")  # type: ignore[arg-type]


def test_linears_stay_linears(model: PreTrainedModel) -> None:
    printed = repr(model.model.layers[0].mlp.act_fn)
    types = {path: type(linear) for path, linear in linears(model).items()}
    meteora_rs.attach(model)
    for path, before in types.items():
        now = model.get_submodule(path)
        assert isinstance(now, nn.Linear) and isinstance(now, before)
        assert (type(now).__name__, type(now).__module__) == (before.__name__, before.__module__)
    assert repr(model.model.layers[0].mlp.act_fn) == printed
    assert isinstance(model, type(tiny_model()))


def test_state_dict_and_parameters_hold_nothing_new(model: PreTrainedModel) -> None:
    keys, parameters = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    meteora = meteora_rs.attach(model)
    meteora.load_adapter(adapter(model), "math")
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_parameters()] == parameters
    missing = model.load_state_dict(tiny_model(seed=5).state_dict(), strict=True)
    assert missing.missing_keys == missing.unexpected_keys == []


def test_save_pretrained_writes_the_base(loaded: Meteora, model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "attached")
    tiny_model().save_pretrained(tmp_path / "stock")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "attached" / file).read_bytes() == (tmp_path / "stock" / file).read_bytes()
    again = type(model).from_pretrained(tmp_path / "attached").eval()
    assert equal(logits(again, prompt()), logits(tiny_model(), prompt()))
    assert load_file(tmp_path / "attached" / "model.safetensors").keys() <= set(model.state_dict())


@pytest.mark.parametrize("convert", ["half", "bfloat16", "to", "double"])
def test_a_change_of_type_leaves_adapters_and_gates_alone(loaded: Meteora, convert: str) -> None:
    before = [[buffer.clone() for buffer in site.buffers()] for site in loaded.sites]
    model = loaded.model
    model.to(torch.bfloat16) if convert == "to" else getattr(model, convert)()
    assert model.dtype != torch.float32
    for site, buffers in zip(loaded.sites, before, strict=True):
        assert all(equal(now, then) for now, then in zip(site.buffers(), buffers, strict=True))
    if convert != "double":
        with loaded.routing("math"):
            assert logits(model, prompt()).dtype == model.dtype


def test_a_float64_model_is_refused_where_it_would_compute(loaded: Meteora) -> None:
    loaded.model.double()
    with (
        loaded.routing("math"),
        pytest.raises((MeteoraError, RuntimeError), match="float32, float16 or bfloat16"),
    ):
        logits(loaded.model, prompt())


@pytest.mark.parametrize("copier", [copy.deepcopy, pickle.dumps, lambda m: torch.save(m, io.BytesIO())])
def test_copies_are_refused_with_the_remedy(loaded: Meteora, copier: Any) -> None:
    for part in (loaded.model, loaded.model.model.layers[0], loaded.model.model.layers[0].mlp.up_proj):
        with pytest.raises(MeteoraError, match=r"detach\(\)"):
            copier(part)


def test_a_handle_is_not_copied(loaded: Meteora) -> None:
    with pytest.raises(MeteoraError, match=r"attach\(\)"):
        copy.deepcopy(loaded)


def state(model: nn.Module) -> list[tuple[Any, ...]]:
    """All that hangs on the modules: class, attributes, children, hooks."""
    return [
        (name, type(module), list(module.__dict__), list(module._modules), len(module._forward_hooks))
        for name, module in model.named_modules()
    ]


def test_detach_leaves_what_was_there(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    ids = prompt()
    before, weights, attributes = logits(model, ids), copy.deepcopy(model.state_dict()), state(model)
    meteora = meteora_rs.attach(model)
    meteora.load_adapter(adapter(model), "math")
    assert not equal(logits(model, ids), before)
    meteora.detach()
    meteora.detach()
    assert state(model) == attributes
    assert all(equal(model.state_dict()[key], value) for key, value in weights.items())
    assert equal(logits(model, ids), before)
    assert equal(logits(copy.deepcopy(model), ids), before)


def test_a_detached_handle_says_so(model: PreTrainedModel, tmp_path: Path) -> None:
    meteora = meteora_rs.attach(model)
    source = adapter(model)
    record, gates = meteora.load_adapter(source, "math"), gate_rows(meteora, 1)
    meteora.detach()
    for use in (
        lambda: meteora.load_adapter(source, "law"),
        lambda: meteora.reload_adapter("math", source),
        lambda: meteora.unload_adapter("math"),
        lambda: meteora.pin_adapter("math"),
        lambda: meteora.set_gates({"math": gates}),
        lambda: meteora.fit_gates({"math": ["text"]}),
        lambda: meteora.save_pretrained(tmp_path / "bundle"),
        lambda: meteora.routing("math").__enter__(),
        lambda: meteora.trace().__enter__(),
        lambda: meteora.model,
    ):
        with pytest.raises(MeteoraError, match="detached"):
            use()
    assert meteora.adapters() == [record]
    assert not list(tmp_path.iterdir())


def test_attaching_again_after_detach(model: PreTrainedModel) -> None:
    outputs = []
    for _ in range(2):
        meteora = meteora_rs.attach(model)
        meteora.load_adapter(adapter(model), "math")
        outputs.append(logits(model, prompt()))
        meteora.detach()
    assert equal(*outputs)


def test_detach_in_an_open_block_leaves_a_working_base(model: PreTrainedModel) -> None:
    before = logits(model, prompt())
    meteora = meteora_rs.attach(model)
    meteora.load_adapter(adapter(model), "math")
    with meteora.routing("math"):
        meteora.detach()
        assert equal(logits(model, prompt()), before)


def test_attaching_twice_is_refused(meteora: Meteora) -> None:
    with pytest.raises(MeteoraError, match=r"attached already.*detach\(\)"):
        meteora_rs.attach(meteora.model)
    assert equal(logits(meteora.model, prompt()), logits(tiny_model(), prompt()))


def test_a_model_without_decoder_layers_is_refused() -> None:
    with pytest.raises(MeteoraError, match=r"Sequential has no nn.Linear under a decoder layer"):
        meteora_rs.attach(nn.Sequential(nn.Linear(4, 4)))


def test_a_peft_model_is_refused_with_the_remedy(model: PreTrainedModel) -> None:
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    for outer in (wrapped, wrapped.base_model.model):
        with pytest.raises(MeteoraError, match=r"wrapped by PEFT.*unload\(\)"):
            meteora_rs.attach(outer)
    meteora_rs.attach(wrapped.unload())


@pytest.mark.parametrize("gate", ["arrow", "none", "tensors"])
def test_gates_can_be_written_whatever_mode_attach_ran_in(model: PreTrainedModel, gate: str) -> None:
    with torch.inference_mode():
        meteora = meteora_rs.attach(model)
    source = adapter(model)
    for name, inference in (("math", False), ("law", True)):
        for site in meteora.sites:
            site.gate.requires_grad_(not inference)
        with torch.inference_mode(inference):
            meteora.load_adapter(source, name, gate=gate_rows(meteora, 1) if gate == "tensors" else gate)
    assert equal(logits(model, prompt()), logits(model, prompt()))
