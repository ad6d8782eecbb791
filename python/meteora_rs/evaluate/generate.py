"""One batch of prompts, answered greedily, and who served the answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from meteora_rs.pieces import decode_pieces
from meteora_rs.routes import BASE, Auto, Route

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora
    from meteora_rs.trace import Floats, Trace


@dataclass(frozen=True)
class Answer:
    """A text, and where gates chose, who served it.

    Attributes:
        tokens: how many were generated, the one that ends the answer left out.
        shares: mean weight of each adapter, and of the base, over the answer's tokens and all sites.
        served: runs of characters as (adapter, characters): the one with the most weight over all sites leads a
            token.
    """

    text: str
    tokens: int
    shares: dict[str, float]
    served: list[tuple[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def answer_batch(
    meteora: Meteora, tokenizer: Any, prompts: Sequence[str], route: Route, max_new_tokens: int
) -> list[Answer]:
    """Answer prompts with at most `max_new_tokens` tokens each, under one route.

    Raises:
        AdapterNotFoundError, RouteError: as `Meteora.routing`.
    """
    model: Any = meteora.model
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left").to(model.device)
    length = inputs["input_ids"].shape[1]
    tracing = meteora.trace() if isinstance(route, Auto) else nullcontext()
    with torch.no_grad(), meteora.routing(route), tracing as trace:
        output = model.generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    ends = _end_tokens(model, tokenizer)
    weights = None if trace is None else _weights(trace)
    answers = []
    for row, ids in enumerate(output[:, length:].tolist()):
        end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        pieces = decode_pieces(tokenizer, ids[:end])
        shares: dict[str, float] = {}
        served: list[tuple[str, int]] = []
        if trace is not None and weights is not None and pieces:
            shares, served = _served(trace, weights[row, :end], pieces)
        answers.append(Answer("".join(pieces), end, shares, served))
    return answers


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    return {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}


def _weights(trace: Trace) -> Floats:
    """Mean weight over all sites: `[rows, new tokens, adapters]`.

    Token t comes out of the position before it, the first one out of the prompt's last. Sums over whole steps:
    `Trace.token_weights` keeps every site apart, which for a batch takes longer than answering it.
    """
    slots = sorted(trace.names)
    steps = []
    for _, group in groupby(trace.records, key=lambda record: record.step):
        records = list(group)
        step = np.zeros((len(records[0].slots), len(slots)), np.float32)
        if records[0].slots.size:  # else there is nothing that gates could choose
            chosen = np.stack([record.slots[:, -1] for record in records])  # [sites, rows, k]
            weights = np.stack([record.weights[:, -1] for record in records])
            for column, slot in enumerate(slots):
                step[:, column] = (weights * (chosen == slot)).sum(axis=(0, 2))
        steps.append(step)
    return np.stack(steps, axis=1) / np.float32(len(trace.sites))


def _served(trace: Trace, weights: Floats, pieces: Sequence[str]) -> tuple[dict[str, float], list[tuple[str, int]]]:
    whole = np.concatenate([weights, np.clip(1 - weights.sum(axis=1, keepdims=True), 0, None)], axis=1)
    names = [*trace.adapters, BASE]
    shares = dict(zip(names, np.round(whole.mean(axis=0, dtype=np.float64), 4).tolist(), strict=True))
    leaders = zip(whole.argmax(axis=1).tolist(), pieces, strict=True)
    runs = [(names[index], sum(len(piece) for _, piece in run)) for index, run in groupby(leaders, key=lambda x: x[0])]
    return shares, runs
