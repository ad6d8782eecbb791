"""Tiny random models and random PEFT adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from meteora_rs import Meteora
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

PREFIX = "base_model.model."
VOCABULARY = 97
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# An odd width, so that no kernel gets by with whole vectors.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 133,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.15,
}
MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**{**SIZES, **more})),
    "qwen2": lambda **more: Qwen2ForCausalLM(Qwen2Config(**{**SIZES, **more})),
    "mistral": lambda **more: MistralForCausalLM(MistralConfig(**{**SIZES, **more})),
}


def tiny_model(kind: str = "llama", seed: int = 0, **more: Any) -> PreTrainedModel:
    """The same random model each time, in evaluation mode."""
    torch.manual_seed(seed)
    model = MODELS[kind](**more)
    model.train(False)
    return model


def linears(model: nn.Module, targets: Sequence[str] = ALL) -> dict[str, nn.Linear]:
    """The linears of the decoder layers with these names, by path."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in path and path.rpartition(".")[2] in targets
    }


def adapter(
    model: nn.Module,
    rank: int = 4,
    *,
    seed: int = 0,
    targets: Sequence[str] = ALL,
    dtype: torch.dtype = torch.float32,
    scale: float = 0.25,
    ranks: Mapping[str, int] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """A random adapter in memory, by hand; `ranks` gives some modules (by name) a rank of their own."""
    random = torch.Generator().manual_seed(1000 + seed)
    ranks = ranks or {}
    tensors: dict[str, Tensor] = {}
    for path, linear in linears(model, targets).items():
        r = ranks.get(path.rpartition(".")[2], rank)
        for half, shape in (("A", (r, linear.in_features)), ("B", (linear.out_features, r))):
            values = torch.randn(*shape, generator=random) * scale
            tensors[f"{PREFIX}{path}.lora_{half}.weight"] = values.to(dtype)
    written = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets)}
    if ranks:
        written["rank_pattern"] = dict(ranks)
    return {"config": {**written, **config}, "tensors": tensors}


def write(source: Mapping[str, Any], folder: Path) -> Path:
    """Save an adapter in memory as PEFT would."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(source["config"]))
    save_file(source["tensors"], folder / "adapter_model.safetensors")
    return folder


def gate_rows(
    meteora: Meteora, seed: int, *, equal: bool = True, scale: float = 0.3
) -> dict[str, tuple[Tensor, float]]:
    """Random gate rows for every site; `equal`: the sites of an input group get the same row."""
    random = torch.Generator().manual_seed(2000 + seed)
    rows = {}
    for group in meteora.groups:
        row = torch.randn(group.leader.in_features, generator=random) * scale
        for site in group.sites:
            own = row if equal else torch.randn(site.in_features, generator=random) * scale
            rows[site.path] = (own, 0.01 * seed)
    return rows


def prompt(rows: int = 3, length: int = 7, seed: int = 0) -> Tensor:
    """Random token ids, none of them special."""
    random = torch.Generator().manual_seed(3000 + seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=random)


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor, **more: Any) -> Tensor:
    """What the model says of `ids`."""
    out: Tensor = model(ids, **more).logits
    return out


def usage(meteora: Meteora) -> object:
    """Who has the slots and rows: what a change that failed leaves as it was."""
    stats = meteora.stats()
    return stats.slots, stats.rank_rows, stats.pages.free, stats.tiers["device"].adapters


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same to the bit, NaN and the sign of zero included."""
    ints = {4: torch.int32, 2: torch.int16, 8: torch.int64, 1: torch.uint8}[one.element_size()]
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one.contiguous().view(ints), other.contiguous().view(ints))
    )
