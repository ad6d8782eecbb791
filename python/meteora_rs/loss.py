"""Language-model loss on the wanted responses: the most sensitive measure of what an adapter or a gate is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from meteora_rs.routes import Route

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

Pair = tuple[str, str]


def response_losses(
    meteora: Meteora, tokenizer: Any, pairs: Sequence[Pair], route: Route, *, batch_tokens: int = 2048
) -> list[tuple[float, int]]:
    """For each (prompt, response): the cross-entropy summed over the response and its end, in nats, and the tokens.

    Divide sums by sums for nats a token. Pads on the left, so that all responses end together and the head runs over
    no more than the longest.

    Raises:
        AdapterNotFoundError, RouteError: as `Meteora.routing`.
    """
    encoded = [_encode(tokenizer, pair) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda index: -len(encoded[index][0]))
    found: dict[int, tuple[float, int]] = {}
    while order:
        rows = order[: max(1, batch_tokens // len(encoded[order[0]][0]))]
        order = order[len(rows) :]
        losses = _batch(meteora, [encoded[row] for row in rows], route)
        found.update(zip(rows, losses, strict=True))
    return [found[index] for index in range(len(pairs))]


def _encode(tokenizer: Any, pair: Pair) -> tuple[list[int], int]:
    """Token ids of the whole, and how many of them are the response."""
    prompt, response = pair
    answer = list(tokenizer(response, add_special_tokens=False)["input_ids"])
    if tokenizer.eos_token_id is not None:
        answer.append(tokenizer.eos_token_id)
    return [*tokenizer(prompt)["input_ids"], *answer], len(answer)


def _batch(meteora: Meteora, rows: Sequence[tuple[list[int], int]], route: Route) -> list[tuple[float, int]]:
    model: Any = meteora.model
    width = max(len(ids) for ids, _ in rows)
    longest = max(count for _, count in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (tokens, _) in enumerate(rows):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    with torch.no_grad(), meteora.routing(route):
        device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        logits = model(**device, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1].float()
    targets = ids[:, -longest:].to(logits.device)
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return [(float(nats[row, longest - count :].sum()), count) for row, (_, count) in enumerate(rows)]
