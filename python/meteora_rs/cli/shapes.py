"""Models without weights: their linears' shapes are all that inspecting an adapter needs."""

from __future__ import annotations

from typing import Any

from meteora_rs.errors import MeteoraError

SMOLLM2 = "SmolLM2-135M-Instruct"
_SMOLLM2_CONFIG = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}


def model_name(model: str | None) -> str:
    """The name to print for `--model`."""
    return model or f"{SMOLLM2} (its shapes; --model names another)"


def empty_model(model: str | None) -> Any:
    """Return a model on torch's meta device, from a folder's or hub id's config, or SmolLM2's shapes.

    Raises:
        MeteoraError: transformers does not know this kind of model.
        OSError: the config can't be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    from_config: Any = AutoModelForCausalLM.from_config
    try:
        config = AutoConfig.from_pretrained(model) if model else LlamaConfig(**_SMOLLM2_CONFIG)  # type: ignore[arg-type]
        with torch.device("meta"):
            return from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise MeteoraError(f"model {model}: {error}") from error
