"""Interleaved timing: every variant in every round, so that a drift of the machine meets all alike."""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

PROMPT, STEPS, PREFILL = 16, 16, 128


@dataclass(frozen=True)
class Variant:
    """A model and the block to run it in."""

    model: nn.Module
    block: Callable[[], AbstractContextManager[Any]] = nullcontext


def decode_ms(variant: Variant, tokens: torch.Tensor) -> float:
    """Median milliseconds of one greedy step at batch 1, over `STEPS` steps after a prompt."""
    times = []
    # transformers 5.24 renames past_key_values to cache; PEFT's wrappers take either.
    renamed = "cache" in inspect.signature(type(variant.model).forward).parameters
    name = "cache" if renamed else "past_key_values"
    with torch.inference_mode(), variant.block():
        out = variant.model(input_ids=tokens[:, :PROMPT], use_cache=True)
        for _ in range(STEPS):
            token = out.logits[:, -1:].argmax(-1)
            start = time.perf_counter()
            out = variant.model(input_ids=token, use_cache=True, **{name: out[name]})
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def prefill_ms(variant: Variant, tokens: torch.Tensor) -> float:
    """Milliseconds for a prompt of `PREFILL` tokens."""
    with torch.inference_mode(), variant.block():
        start = time.perf_counter()
        variant.model(input_ids=tokens[:, :PREFILL], use_cache=False)
        return (time.perf_counter() - start) * 1e3


def ratios(
    variants: Mapping[str, Variant],
    measure: Callable[[Variant, torch.Tensor], float],
    rounds: int,
    vocabulary: int,
    title: str,
) -> dict[str, dict[str, float]]:
    """For each variant: median ms, and the ratio to `"base"` in the same round as median, least and largest."""
    tokens = torch.randint(100, vocabulary, (1, PREFILL), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in tqdm(range(rounds + 1), desc=title):
        for name, variant in variants.items():
            took = measure(variant, tokens)
            if turn:  # the first round warms up
                times[name].append(took)
    result = {}
    for name, each in times.items():
        against = [mine / base for mine, base in zip(each, times["base"], strict=True)]
        result[name] = {
            "ms": round(statistics.median(each), 3),
            "ratio": round(statistics.median(against), 4),
            "ratio_min": round(min(against), 4),
            "ratio_max": round(max(against), 4),
        }
    return result
