"""The model's loss on responses, under a route: the measure that routing is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn.functional import cross_entropy

from meteora_rs.routes import Route

from .collect import evaluating
from .data import Batch, Example, batches

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

# Logits over a large vocabulary are the largest tensors here.
BATCH_TOKENS = 512


def losses_of(
    meteora: Meteora,
    examples: Sequence[Example],
    route: Route,
    *,
    top_k: int | None = None,
    temperature: float | None = None,
) -> list[float]:
    """For each example the mean loss on its response's tokens (all but the first, without a prompt), in nats."""
    order = sorted(range(len(examples)), key=lambda place: len(examples[place].ids), reverse=True)
    found: list[float] = []
    for batch in batches(examples, BATCH_TOKENS):
        with meteora.routing(route, top_k=top_k, temperature=temperature):
            found += _losses(meteora, batch)
    losses = [0.0] * len(examples)
    for place, loss in zip(order, found, strict=True):
        losses[place] = loss
    return losses


def _losses(meteora: Meteora, batch: Batch) -> list[float]:
    device = next(meteora.model.parameters()).device
    with evaluating(meteora.model):
        logits = meteora.model(
            input_ids=batch.ids.to(device), attention_mask=batch.mask.to(device), use_cache=False
        ).logits
    losses = []
    for row, (start, length) in enumerate(zip(batch.responses.tolist(), batch.mask.sum(1).tolist(), strict=True)):
        first = max(1, min(start, length - 1))
        targets: Tensor = batch.ids[row, first:length].to(device)
        losses.append(cross_entropy(logits[row, first - 1 : length - 1].float(), targets).item())
    return losses
