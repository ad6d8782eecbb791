"""A fixed mix of adapters, learnt on a few examples without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from meteora_rs.routes import Mix
from meteora_rs.serving.requests import Requests
from meteora_rs.texts.loss import response_losses

Weights = tuple[float, ...]

SMALLEST_STEP = 0.05
"""Finer weights change the loss by less than a handful of examples can tell."""


def learn_mix(
    meteora: Requests,
    pairs: Sequence[tuple[str, str]],
    *,
    tokenizer: Any,
    adapters: Sequence[str] | None = None,
    penalty: float = 0.05,
    evaluations: int = 120,
    progress: bool = True,
) -> Mix:
    """The weights under which the adapters say the responses best, for a task that has no adapter of its own.

    Minimises, over weights w ≥ 0 of one number for each adapter,

        nats a token of the responses under Mix(w) + penalty · mean(w)

    by pattern search from the best of: no adapter, each alone, all alike. Each weight in turn goes up or down by a
    step, which is halved when none of that helps, from 1/2 to 1/20. Deterministic; the result is never worse than
    the best single adapter. An adapter that is not needed is left out.

    Args:
        pairs: (prompt, response) pairs that the adapters were not trained on; some 20 do.
        adapters: names to mix; all live ones if left out.
        penalty: what LoraHub calls its regularisation; keeps needless weights at 0.
        evaluations: how often the loss may be taken, over all pairs, once the starting points have been.

    Raises:
        ValueError: no pair, no adapter, or an option out of range.
        AdapterNotFoundError: a name that no live adapter has.

    Source: LoraHub (Huang et al., arXiv 2307.13269), whose weights may be negative, and come of CMA-ES.
    """
    names = list(adapters if adapters is not None else (record.name for record in meteora.adapters()))
    if not pairs or not names or not penalty >= 0 or evaluations < 1:
        raise ValueError("learn_mix: at least one pair, one adapter and one evaluation, and a penalty of 0 or more")
    starts = {tuple(float(i == j) for j in range(len(names))) for i in range(-1, len(names))}
    starts.add((1 / len(names),) * len(names))
    with tqdm(total=len(starts) + evaluations, unit="mix", disable=not progress) as bar:

        def loss(weights: Weights) -> float:
            route = Mix(dict(zip(names, weights, strict=True)))
            found = response_losses(meteora, tokenizer, pairs, route)
            nats = sum(each for each, _ in found) / sum(tokens for _, tokens in found)
            bar.update()
            bar.set_postfix_str(f"{nats:.4f} nats")
            return nats + penalty * sum(weights) / len(weights)

        known = {weights: loss(weights) for weights in sorted(starts, reverse=True)}
        best = min(known, key=known.__getitem__)
        step, last = 0.5, len(known) + evaluations
        while step >= SMALLEST_STEP and len(known) < last:
            moved = best
            for place in range(len(names)):
                for sign in (1, -1):
                    tried = _moved(moved, place, sign * step)
                    if tried not in known and len(known) < last:
                        known[tried] = loss(tried)
                    if known.get(tried, known[moved]) < known[moved]:
                        moved = tried
                        break
            if moved == best:
                step /= 2
            best = moved
    chosen = {name: weight for name, weight in zip(names, best, strict=True) if weight > 0}
    return Mix(chosen or {names[0]: 0.0})


def _moved(weights: Weights, place: int, step: float) -> Weights:
    moved = list(weights)
    moved[place] = round(max(0.0, moved[place] + step), 6)
    return tuple(moved)
