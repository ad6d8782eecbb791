"""A LLaMA of random weights, attached, against itself with base-only routes and stock: a decode step, a prefill; and
what the slowest decode steps take while an adapter is loaded each second.

A decode step is a captured graph. One that was captured for base-only routes has the adapters' kernels in it too, which
find nothing to do: it follows whatever routes come later.
"""

from __future__ import annotations

import inspect
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

from benchmarks.gpu import sites as state
from benchmarks.gpu.timing import captured, keep, replayed, times
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
HOT_BATCH, HOT_SECONDS = 16, 8
# What the model calls its cache: past_key_values before transformers 5.24.
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"


def step(model: LlamaForCausalLM, batch: int) -> Callable[[], object]:
    """One decode step with a static cache, in a graph."""
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)
    ids = torch.zeros(batch, 1, dtype=torch.long, device=state.DEVICE)
    position = torch.tensor([[CONTEXT // 2]], device=state.DEVICE)

    def work() -> object:
        for layer in cache.layers:  # which counts each replay: a microsecond each, attached or not
            layer.cumulative_length.fill_(CONTEXT // 2)
        logits = model(ids, position_ids=position, **{CACHE: cache}).logits
        assert all(layer.is_initialized for layer in cache.layers)  # else the model has read another cache, or none
        return logits

    return captured(work)


def measure(model: LlamaForCausalLM) -> dict[str, float]:
    """µs of each kind of pass, under the routes in force."""
    found = {f"decode {batch}": replayed(step(model, batch), 1)[0] for batch in BATCHES}
    ids = torch.zeros(1, PREFILL, dtype=torch.long, device=state.DEVICE)

    def prefill() -> object:
        return model(ids, use_cache=False).logits

    found[f"prefill {PREFILL}"] = replayed(captured(prefill), 1)[0]
    found[f"prefill {PREFILL}, not captured"] = replayed(prefill, 1)[0]  # with what the host takes for launches
    return found


@contextmanager
def loading(meteora: Meteora, path: Path) -> Iterator[None]:
    """An adapter comes and goes each second meanwhile."""
    over = threading.Event()

    def load() -> None:
        while True:
            meteora.load_adapter(path, "hot")
            ended = over.wait(1)
            meteora.unload_adapter("hot")
            if ended:
                return

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def hot_steps(model: LlamaForCausalLM, meteora: Meteora, path: Path) -> dict[str, float]:
    """µs of decode steps, with and without a load each second beside them."""

    def steps(work: Callable[[], object]) -> dict[str, float]:
        end, found = time.monotonic() + HOT_SECONDS, []
        while time.monotonic() < end:
            found += times(work, 1)
        return {"p50": statistics.median(found), "p99": statistics.quantiles(found, n=100)[98]}

    with meteora.routing(Auto()):
        work = step(model, HOT_BATCH)
        quiet = steps(work)
        with loading(meteora, path):
            busy = steps(work)
    return {**quiet, **{f"{key} with loads": value for key, value in busy.items()}}


@torch.no_grad()
def main(out: Path) -> None:
    """Measure each configuration; ratios are to the stock model in the same process."""
    results: dict[str, Any] = {}
    for name, sizes in CONFIGS.items():
        with torch.device(state.DEVICE):
            torch.set_default_dtype(torch.bfloat16)
            model = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, max_position_embeddings=4096, **sizes)).eval()
            torch.set_default_dtype(torch.float32)
        stock = measure(model)
        config = MeteoraConfig(max_adapters=ADAPTERS + 1, pool_rank=(ADAPTERS + 1) * RANK)
        meteora = meteora_rs.attach(model, config)
        results[name] = {"stock_us": stock}
        with tempfile.TemporaryDirectory() as folder:
            *paths, hot = write_adapters(Path(folder), model, ADAPTERS + 1, RANK)
            for path in paths:
                meteora.load_adapter(path, path.name)
            for label, route in (("routed", Auto()), ("base only", "__base__")):
                with meteora.routing(route):
                    found = measure(model)
                results[name][label] = {key: found[key] / stock[key] for key in stock}
            results[name]["steps_us"] = hot_steps(model, meteora, hot)
        meteora.detach()
        print(name, results[name], flush=True)
        keep(results, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
