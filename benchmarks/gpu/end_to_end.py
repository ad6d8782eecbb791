"""A LLaMA of random weights, attached, against itself with base-only routes and detached: a decode step, a prefill."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import Auto, MeteoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from benchmarks.gpu.timing import in_graph, replayed
from benchmarks.random_adapters import write_adapters

CONFIGS: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8},
}  # fmt: skip
ADAPTERS, RANK = 28, 8
BATCHES = (1, 4, 16, 64)
CONTEXT, PREFILL = 256, 2048


def step(model: LlamaForCausalLM, batch: int) -> float:
    """µs of one decode step with a static cache, in a graph."""
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)
    ids = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
    position = torch.tensor([CONTEXT // 2], device="cuda")

    def work() -> object:
        return model(ids, past_key_values=cache, cache_position=position, position_ids=position[None]).logits

    return in_graph(work, 1)[0]


def measure(model: LlamaForCausalLM) -> dict[str, float]:
    """µs of each kind of pass, under the routes in force."""
    found = {f"decode {batch}": step(model, batch) for batch in BATCHES}
    ids = torch.zeros(1, PREFILL, dtype=torch.long, device="cuda")
    found[f"prefill {PREFILL}"] = replayed(lambda: model(ids, use_cache=False).logits, 1)[0]
    return found


@torch.no_grad()
def main(out: Path) -> None:
    """Measure each configuration; ratios are to the stock model in the same process."""
    results: dict[str, Any] = {}
    for name, sizes in CONFIGS.items():
        with torch.device("cuda"):
            torch.set_default_dtype(torch.bfloat16)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, max_position_embeddings=4096, **sizes)).eval()
            torch.set_default_dtype(torch.float32)
        stock = measure(model)
        meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=ADAPTERS, pool_rank=ADAPTERS * RANK))
        with tempfile.TemporaryDirectory() as folder:
            for path in write_adapters(Path(folder), model, ADAPTERS, RANK):
                meteora.load_adapter(path, path.name)
        results[name] = {"stock_us": stock}
        for label, route in (("routed", Auto()), ("base only", "__base__")):
            with meteora.routing(route):
                times = measure(model)
            results[name][label] = {key: times[key] / stock[key] for key in stock}
        meteora.detach()
        print(name, results[name], flush=True)
        out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
