"""Which linears are sites: those of the text decoder, whatever else the model has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs import MeteoraConfig, attach
from meteora_rs.errors import MeteoraError
from meteora_rs.sites.architecture import find_sites
from tiny import SIZES, adapter, equal, prompt, tiny_model
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    CLIPVisionConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def tiny_llava() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**SIZES), image_token_index=96)
    return LlavaForConditionalGeneration(config).eval()


def paths(model: nn.Module) -> list[str]:
    return [site.path for site in find_sites(model)]


def test_a_vision_tower_has_no_site() -> None:
    model = tiny_llava()
    found = paths(model)
    assert len(found) == 14 and {path.rpartition(".")[2] for path in found} == ALL
    assert all("language_model.layers" in path for path in found)
    assert any("vision_tower" in path and ".layers." in path for path, _ in model.named_modules())


def test_pictures_are_seen_as_before_and_text_by_adapters() -> None:
    model = tiny_llava()
    ids = prompt(1, 9)
    ids[0, 1:5] = 96
    inputs: dict[str, Any] = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 8, 8)}
    features = lambda: model.model.vision_tower(inputs["pixel_values"]).last_hidden_state  # noqa: E731
    with torch.no_grad():
        seen, before = features(), model(**inputs).logits
        meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
        assert equal(model(**inputs).logits, before)
        meteora.load_adapter(for_text(model), "math")
        assert not equal(model(**inputs).logits, before)
        assert equal(features(), seen)


def for_text(model: nn.Module) -> dict[str, Any]:
    """A random adapter for the text decoder."""
    source = adapter(model, 4)
    source["tensors"] = {key: value for key, value in source["tensors"].items() if "language_model" in key}
    source["config"]["target_modules"] = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    return source


def test_an_encoder_has_no_site() -> None:
    config = BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
    )  # fmt: skip
    found = paths(BartForConditionalGeneration(config))
    assert found and all(path.startswith("model.decoder.layers.0.") for path in found)


def test_a_router_that_returns_more_than_a_tensor_has_no_site() -> None:
    config = Llama4TextConfig(**SIZES, head_dim=16, intermediate_size_mlp=24, num_local_experts=2, moe_layers=[1])
    torch.manual_seed(0)
    model = Llama4ForCausalLM(config).eval()
    with torch.no_grad():
        before = model(prompt(1, 9)).logits
        meteora = attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
        assert not any(site.path.endswith("router") for site in meteora.sites)
        assert equal(model(prompt(1, 9)).logits, before)


def test_the_inner_model_is_its_own_decoder() -> None:
    model = tiny_model()
    assert paths(model.model) == [path.removeprefix("model.") for path in paths(model)]


def tree(paths: list[str]) -> nn.Module:
    """A model of linears at these paths."""
    root = nn.Module()
    for path in paths:
        *parents, name = path.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.add_module(name, nn.Linear(4, 4))
    return root


TOWERS = ["vision_tower", "vision_model.encoder", "visual", "image_encoder", "audio_tower", "model.vision_tower"]


@pytest.mark.parametrize("tower", TOWERS)
def test_towers_are_left_out_by_name_where_the_decoder_is_not_known(tower: str) -> None:
    text = ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.supervision.layers.0.q_proj"]
    assert paths(tree([f"{tower}.layers.0.q_proj", *text])) == text
    with pytest.raises(MeteoraError, match="nothing to attach to"):
        paths(tree([f"{tower}.layers.0.q_proj"]))
