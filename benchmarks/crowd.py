"""Many more adapters than the device holds: Zipf requests against all of them resident, and look-ups by number.

On the first layers of the model, so that a thousand adapters find room twice: beside one load, a step shrinks alike.
"""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from typing import Any

import meteora_rs
import torch
from meteora_rs import Meteora, MeteoraConfig

from benchmarks.models import twin
from benchmarks.random_adapters import random_adapter
from benchmarks.stages import timed
from benchmarks.timing import PROMPT, Variant, next_token

LAYERS = 10
RANK, POOL_ROWS = 2, 8
"""Of each adapter; the rank rows of its share of the pools, which are handed out in eights."""
SLOTS = 64
LARGEST_COPY = 1 << 20
"""Bytes of a copy in the host's memory, at most."""
NEW_TOKENS, TURN = 8, 10
"""Tokens of a request; requests to one model before the other one's turn."""


def crowd(base: Any, tokens: torch.Tensor, count: int, requests: int) -> dict[str, Any]:
    """`count` adapters registered and `SLOTS` on the device, then twice as many registered."""
    base = shallow(base)
    adapter = random_adapter(base, RANK, torch.Generator().manual_seed(0))
    names = [f"adapter_{index}" for index in range(2 * count)]
    meteora = attached(base, SLOTS, host_bytes=LARGEST_COPY * len(names))
    look_ups = {}
    for known in (SLOTS, count // 4, count):
        register(meteora, adapter, names[:known])
        look_ups[known] = look_up(meteora, names[:known])
    whole = attached(base, count)
    for name in names[:count]:
        whole.load_adapter(adapter, name, gate="none")
    result = {
        "hits": hits(meteora, names[:count]),
        "zipf": throughput(meteora, whole, names[:count], tokens[:, :PROMPT], requests),
    }
    whole.detach()
    register(meteora, adapter, names)
    look_ups[len(names)] = look_up(meteora, names)
    meteora.detach()
    return {**result, "look-ups": look_ups}


def shallow(base: Any) -> Any:
    """The model's first layers, its parameters shared."""
    model = twin(base)
    model.model.layers = model.model.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    return model


def attached(base: Any, slots: int, host_bytes: int = 0) -> Meteora:
    """A twin with room for `slots` adapters."""
    return meteora_rs.attach(
        twin(base), MeteoraConfig(max_adapters=slots, pool_rank=POOL_ROWS * slots, host_bytes=host_bytes)
    )


def register(meteora: Meteora, adapter: dict[str, Any], names: list[str]) -> None:
    """Register what is not yet; all have the same weights, and each its copy of them."""
    known = {record.name for record in meteora.registered_adapters()}
    for name in names:
        if name not in known:
            meteora.register_adapter(adapter, name, gate="none")


def look_up(meteora: Meteora, names: list[str], times: int = 500) -> dict[str, float]:
    """Microseconds of a `routing()` block by a resident name, and milliseconds until one from the host is resident."""
    meteora.prefetch(names[:1])

    def block() -> None:
        with meteora.routing(names[0]):
            pass

    blocks = [timed(block) * 1e3 for _ in range(times)]
    resident = {record.name for record in meteora.adapters()}
    resting = [name for name in names if name not in resident][: SLOTS // 2]
    arrivals = [timed(lambda name=name: meteora.prefetch([name])) for name in resting]
    return {
        "block_us": round(statistics.median(blocks), 1),
        "arrival_ms": round(statistics.median(arrivals), 3) if arrivals else 0.0,
    }


def zipf(names: list[str], requests: int, seed: int) -> list[str]:
    """Names drawn with a weight of 1 / place."""
    weights = 1 / torch.arange(1, len(names) + 1, dtype=torch.float64)
    drawn = torch.multinomial(weights, requests, replacement=True, generator=torch.Generator().manual_seed(seed))
    return [names[index] for index in drawn]


def hits(meteora: Meteora, names: list[str], requests: int = 3000) -> dict[str, float]:
    """How often an adapter was there when it was asked for, and how often an LRU list would have had it."""
    order: OrderedDict[str, None] = OrderedDict()
    for name in names[:SLOTS]:
        meteora.prefetch([name])
        order[name] = None
    before, simulated = meteora.stats().admissions, 0
    for name in zipf(names, requests, seed=0):
        meteora.prefetch([name])
        simulated += name in order
        order[name] = None
        order.move_to_end(name)
        if len(order) > SLOTS:
            order.popitem(last=False)
    after = meteora.stats().admissions
    assert before is not None and after is not None
    return {"rate": round((after.hits - before.hits) / requests, 4), "lru_rate": round(simulated / requests, 4)}


def throughput(
    meteora: Meteora, whole: Meteora, names: list[str], prompt: torch.Tensor, requests: int
) -> dict[str, float]:
    """Tokens a second of requests one after the other, and the ratio to a model on which all are resident."""
    drawn = zipf(names, requests, seed=1)
    before, seconds = meteora.stats().admissions, {"pool": 0.0, "all": 0.0}
    ratios, order = [], [("pool", meteora), ("all", whole)]
    for _, handle in order:  # each model's first pass warms up
        answer(Variant(handle.model, lambda handle=handle: handle.routing(names[0])), prompt)
    for at in range(0, requests, TURN):
        turn = {}
        order.reverse()  # nobody goes first always
        for which, handle in order:
            start = time.perf_counter()
            for name in drawn[at : at + TURN]:
                answer(Variant(handle.model, lambda handle=handle, name=name: handle.routing(name)), prompt)
            turn[which] = time.perf_counter() - start
            seconds[which] += turn[which]
        ratios.append(turn["all"] / turn["pool"])
    after = meteora.stats().admissions
    assert before is not None and after is not None
    return {
        "tokens_per_s": round(requests * NEW_TOKENS / seconds["pool"], 2),
        "all_resident_tokens_per_s": round(requests * NEW_TOKENS / seconds["all"], 2),
        "ratio": round(seconds["all"] / seconds["pool"], 4),
        "ratio_min": round(min(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "hit_rate": round((after.hits - before.hits) / requests, 4),
        "waited_ms_a_miss": round(
            1e3 * (after.waits.seconds - before.waits.seconds) / max(1, after.misses - before.misses), 3
        ),
    }


def answer(variant: Variant, prompt: torch.Tensor) -> None:
    """One request: a prompt and `NEW_TOKENS` greedy tokens."""
    with torch.inference_mode(), variant.block():
        out = variant.model(input_ids=prompt, use_cache=True)
        for _ in range(NEW_TOKENS - 1):
            out = next_token(variant.model, out)
