"""Tokens a second of a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence

from meteora_rs.cli.loading import Model, Tokenizer

REPEATS = 3


def tokens_per_second(model: Model, tokenizer: Tokenizer, prompts: Sequence[str], new_tokens: int) -> float:
    """New tokens a second, all rows together, prefill included; the best of three after a short run.

    Every row is made to go on for `new_tokens`, whatever it says, so that runs with other answers compare.
    """
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True)
    options = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    model.generate(**inputs, max_new_tokens=1, **options)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, **options)
        best = min(best, time.perf_counter() - started)
    return new_tokens * len(prompts) / best
