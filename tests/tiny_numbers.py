"""A tiny model whose adapters' texts are numbers from alphabets of their own."""

from __future__ import annotations

import random
from typing import Any

import meteora_rs
import torch
from meteora_rs import Meteora, MeteoraConfig
from meteora_rs.gates.fit.data import Example

HIDDEN, VOCABULARY = 32, 50
ALPHABETS = {"first": range(0, 18), "second": range(15, 33), "__base__": range(30, 48)}


class Numbers:
    """A tokenizer of numbers between spaces."""

    eos_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
        return {"input_ids": [int(word) for word in text.split()]}


POOLS = MeteoraConfig(max_adapters=4, pool_rank=32)


def attached(config: MeteoraConfig = POOLS) -> Meteora:
    """A tiny random Llama with two random adapters; the same each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    meteora = meteora_rs.attach(LlamaForCausalLM(shape), config)
    for name in ("first", "second"):
        meteora.load_adapter(adapter(meteora), adapter_name=name)
    return meteora


def adapter(meteora: Meteora) -> dict[str, Any]:
    """A random adapter in memory."""
    tensors = {}
    for site in meteora.sites:
        prefix = f"base_model.model.{site.path}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(4, site.in_features) / 8
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(site.out_features, 4) / 8
    modules = sorted({site.path.rpartition(".")[2] for site in meteora.sites})
    return {"config": {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": modules}, "tensors": tensors}


def texts(seed: int, count: int = 24) -> dict[str, list[str]]:
    """Numbers drawn from the alphabet of each class; alphabets overlap."""
    draw = random.Random(seed)
    return {name: drawn(draw, alphabet, count) for name, alphabet in ALPHABETS.items()}


def drawn(draw: random.Random, alphabet: range, count: int) -> list[str]:
    """Texts of numbers from one alphabet."""
    return [" ".join(str(draw.choice(alphabet)) for _ in range(draw.randint(6, 20))) for _ in range(count)]


def example(length: int, response: int, label: int = 0, held: bool = True) -> Example:
    """A text of a class that never teaches, or teaches nothing."""
    ids = torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return Example(label, tuple(ids), response, (), (), held)
