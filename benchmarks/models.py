"""Copies of one base model that share its weights, attached or wrapped in different ways."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import Auto, MeteoraConfig
from meteora_rs.samples import smollm2_path
from transformers import AutoModelForCausalLM

from benchmarks.random_adapters import random_gates
from benchmarks.timing import Variant


def load_base() -> Any:
    """SmolLM2-135M-Instruct in fp32."""
    return AutoModelForCausalLM.from_pretrained(smollm2_path(), dtype=torch.float32).eval()


def twin(base: Any) -> Any:
    """A second model on the same parameters, so that the caches see one set of weights."""
    with torch.device("meta"):
        model = type(base)(copy.deepcopy(base.config))
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie_weights()
    for name, buffer in base.named_buffers():
        owner = model.get_submodule(name.rpartition(".")[0])
        setattr(owner, name.rpartition(".")[2], buffer)
    return model.eval().requires_grad_(False)


def attached(base: Any, adapters: list[Path], gate: str = "random") -> meteora_rs.Meteora:
    """An attached twin with `adapters` loaded; their gates are random rows, or Arrow's."""
    config = MeteoraConfig(max_adapters=len(adapters), pool_rank=8 * len(adapters))
    meteora = meteora_rs.attach(twin(base), config)
    names = [path.name for path in adapters]
    for path in adapters:
        meteora.load_adapter(path, path.name, gate="arrow" if gate == "arrow" else "none")
    if gate == "random":
        meteora.set_gates(random_gates(meteora, names))
    return meteora


def meteora_variants(meteora: meteora_rs.Meteora, name: str) -> dict[str, Variant]:
    """The attached model under each kind of route; `name` is the adapter for the named one."""
    return {
        "meteora base rows": Variant(meteora.model, lambda: meteora.routing("__base__")),
        "meteora named": Variant(meteora.model, lambda: meteora.routing(name)),
        "meteora auto": Variant(meteora.model, lambda: meteora.routing(Auto())),
    }


def peft_single(base: Any, adapter: Path) -> Variant:
    """PEFT with one adapter, unmerged."""
    from peft import PeftModel

    return Variant(PeftModel.from_pretrained(twin(base), str(adapter)).eval())


def peft_arrow(base: Any, adapters: list[Path], top_k: int) -> Variant:
    """PEFT's Arrow router over all adapters."""
    from peft import ArrowConfig, create_arrow_model

    config = ArrowConfig(top_k=top_k, router_temperature=1.0)
    paths = [str(path) for path in adapters]
    return Variant(create_arrow_model(twin(base), paths, config).eval())


def peft_xlora(base: Any, adapters: list[Path]) -> Variant:
    """PEFT's X-LoRA over all adapters (two passes, no KV cache: prefill only)."""
    from peft import XLoraConfig, get_peft_model

    model = twin(base)
    model.config.use_cache = False
    config = XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=model.config.hidden_size, xlora_depth=2, top_k_lora=2,
        adapters={str(index): str(path) for index, path in enumerate(adapters)},  # the names that it gives them
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Variant(get_peft_model(model, config).eval())
