"""Language-model loss on the wanted responses: the most sensitive measure of what an adapter or a gate is worth."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from meteora_rs.routes import Route
from meteora_rs.serving.requests import Requests
from meteora_rs.texts.packing import packed

Pair = tuple[str, str]

Encoded = tuple[Sequence[int], int]
"""Token ids of prompt and response, and how many of the last ones are the response: fewer than all."""


def response_losses(
    meteora: Requests,
    tokenizer: Any,
    pairs: Sequence[Pair],
    route: Route,
    *,
    top_k: int | None = None,
    batch_tokens: int = 2048,
) -> list[tuple[float, int]]:
    """For each (prompt, response): the cross-entropy summed over the response and its end, in nats, and the tokens.

    With another `top_k` than the model's where given. Divide sums by sums for nats a token.

    Raises:
        AdapterNotFoundError, RouteError: as `Meteora.routing`.
    """
    split = [encode_pair(tokenizer, pair) for pair in pairs]
    encoded = [([*prompt, *response], len(response)) for prompt, response in split]
    return token_losses(meteora, encoded, route, top_k=top_k, batch_tokens=batch_tokens)


def token_losses(
    meteora: Requests,
    encoded: Sequence[Encoded],
    route: Route,
    *,
    top_k: int | None = None,
    temperature: float | None = None,
    batch_tokens: int = 2048,
) -> list[tuple[float, int]]:
    """The same for token ids, with another `top_k` or temperature than the model's where given; dropout is off.

    Pads on the left, so that all responses end together and the head runs over no more than the longest.
    """
    found: dict[int, tuple[float, int]] = {}
    batches = packed([len(ids) for ids, _ in encoded], batch_tokens, kept=[count + 1 for _, count in encoded])
    with evaluating(meteora.model), meteora.routing(route, top_k=top_k, temperature=temperature):
        for rows in batches:
            found.update(zip(rows, _batch(meteora.model, [encoded[row] for row in rows]), strict=True))
    return [found[index] for index in range(len(encoded))]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradients inside the block; several threads may be in one at a time.

    The mode is the model's, not a thread's: it comes back when the last has left.
    """
    with _MODES:
        inside, training = _EVALUATED.get(model, (0, model.training))
        _EVALUATED[model] = inside + 1, training
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        with _MODES:
            inside, training = _EVALUATED.pop(model)
            if inside > 1:
                _EVALUATED[model] = inside - 1, training
            else:
                model.train(training)


_MODES = threading.Lock()
_EVALUATED: dict[nn.Module, tuple[int, bool]] = {}
"""How many blocks are open for a model, and the mode that it was in before the first."""


def encode_pair(tokenizer: Any, pair: Pair) -> tuple[list[int], list[int]]:
    """The token ids of a prompt, and those of its response with the end of text, where the tokenizer has one."""
    prompt, response = pair
    answer = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if tokenizer.eos_token_id is not None:
        answer.append(tokenizer.eos_token_id)
    return list(tokenizer(prompt)["input_ids"]), answer


def padded_left(rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `position_ids`, each `[rows, longest]` int64: all rows end together."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (tokens, _) in enumerate(rows):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": places}


def _batch(model: Any, rows: Sequence[Encoded]) -> list[tuple[float, int]]:
    longest = max(count for _, count in rows)
    inputs = padded_left(rows)
    device = {name: tensor.to(next(model.parameters()).device) for name, tensor in inputs.items()}
    logits = model(**device, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1].float()
    targets = inputs["input_ids"][:, -longest:].to(logits.device)
    nats = cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return [(float(nats[row, longest - count :].sum()), count) for row, (_, count) in enumerate(rows)]
