"""Interleaved timing: every variant in turn, a few steps each, so that a drift of the machine meets all alike."""

from __future__ import annotations

import functools
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
RUN = 4
"""Decode steps of one variant before the next one's turn."""

Times = dict[str, list[float]]
"""Milliseconds of each variant; entries of one index were taken one right after the other."""


@dataclass(frozen=True)
class Variant:
    """A model and the block to run it in."""

    model: nn.Module
    block: Callable[[], AbstractContextManager[Any]] = nullcontext


def next_token(model: nn.Module, out: Any) -> Any:
    """One greedy step from what the step before put out."""
    # transformers 5.24 renames past_key_values to cache; PEFT's wrappers take either.
    cache = "cache" if "cache" in _parameters(type(model)) else "past_key_values"
    return model(input_ids=out.logits[:, -1:].argmax(-1), use_cache=True, **{cache: out[cache]})


@functools.cache
def _parameters(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def decode_ms(variants: Mapping[str, Variant], tokens: torch.Tensor) -> Times:
    """Milliseconds of `STEPS` greedy steps at batch 1 after a prompt."""
    times: Times = {name: [] for name in variants}
    outputs = {}
    for name, variant in variants.items():
        with torch.inference_mode(), variant.block():
            outputs[name] = variant.model(input_ids=tokens[:, :PROMPT], use_cache=True)
    names = list(variants)
    for turn in range(STEPS // RUN):
        for name in names[turn:] + names[:turn]:  # nobody comes after the same one always
            variant = variants[name]
            out = outputs[name]
            with torch.inference_mode(), variant.block():
                for _ in range(RUN):
                    start = time.perf_counter()
                    out = next_token(variant.model, out)
                    times[name].append((time.perf_counter() - start) * 1e3)
            outputs[name] = out
    return times


def prefill_ms(variants: Mapping[str, Variant], tokens: torch.Tensor) -> Times:
    """Milliseconds for a prompt of `PREFILL` tokens."""
    times: Times = {}
    for name, variant in variants.items():
        with torch.inference_mode(), variant.block():
            start = time.perf_counter()
            variant.model(input_ids=tokens[:, :PREFILL], use_cache=False)
            times[name] = [(time.perf_counter() - start) * 1e3]
    return times


def ratios(
    variants: Mapping[str, Variant],
    measure: Callable[[Mapping[str, Variant], torch.Tensor], Times],
    rounds: int,
    vocabulary: int,
    title: str,
) -> dict[str, dict[str, float]]:
    """For each variant: median ms, and the ratio to the `"base"` step beside it.

    A round's ratio is the median over its steps; given are the median of all steps, the least and the largest round.
    """
    tokens = torch.randint(100, vocabulary, (1, PREFILL), generator=torch.Generator().manual_seed(0))
    measure(variants, tokens)  # the first round warms up
    turns = [measure(variants, tokens) for _ in tqdm(range(rounds), desc=title)]
    result = {}
    for name in variants:
        against = [[mine / base for mine, base in zip(turn[name], turn["base"], strict=True)] for turn in turns]
        by_round = [statistics.median(each) for each in against]
        result[name] = {
            "ms": round(statistics.median(value for turn in turns for value in turn[name]), 3),
            "ratio": round(statistics.median(value for each in against for value in each), 4),
            "ratio_min": round(min(by_round), 4),
            "ratio_max": round(max(by_round), 4),
        }
    return result
