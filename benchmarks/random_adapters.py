"""Random PEFT adapters on disk, and random gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from meteora_rs import Meteora
from safetensors.torch import save_file
from torch import Tensor, nn

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_adapter(model: nn.Module, rank: int, generator: torch.Generator) -> dict[str, Any]:
    """A bf16 adapter on all seven projections of `model`, in memory: what `load_adapter` takes."""
    tensors = {}
    for path, linear in model.named_modules():
        if not path.endswith(PROJECTIONS):
            continue
        assert isinstance(linear, nn.Linear)
        a = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
        b = torch.randn(linear.out_features, rank, generator=generator) * 0.01
        tensors[f"base_model.model.{path}.lora_A.weight"] = a.bfloat16()
        tensors[f"base_model.model.{path}.lora_B.weight"] = b.bfloat16()
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "bias": "none",
        "target_modules": list(PROJECTIONS), "inference_mode": True, "base_model_name_or_path": None,
    }  # fmt: skip
    return {"config": config, "tensors": tensors}


def write_adapters(folder: Path, model: nn.Module, count: int, rank: int = 8) -> list[Path]:
    """Write `count` random adapters as PEFT folders; returns these."""
    generator = torch.Generator().manual_seed(0)
    paths = []
    for index in range(count):
        adapter = random_adapter(model, rank, generator)
        target = folder / f"adapter_{index}"
        target.mkdir(parents=True)
        save_file(adapter["tensors"], target / "adapter_model.safetensors")
        (target / "adapter_config.json").write_text(json.dumps(adapter["config"]))
        paths.append(target)
    return paths


def random_gates(meteora: Meteora, names: list[str]) -> dict[str, dict[str, Tensor | tuple[Tensor, float]]]:
    """Rows from N(0, 1), one for each input group, as fitted gates have them."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: {g.leader.path: torch.randn(g.leader.in_features, generator=generator) for g in meteora.groups}
        for name in names
    }
