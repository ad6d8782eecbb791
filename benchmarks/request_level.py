"""One adapter for each prompt: the class whose texts' mean activation is nearest to the prompt's. Needs no gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from meteora_rs import BASE, Meteora
from meteora_rs.texts.loss import evaluating
from meteora_rs.texts.packing import packed
from torch import Tensor


class _EnoughError(Exception):
    """The layers that are looked at have run."""


def choose(
    meteora: Meteora, tokenizer: Any, known: Mapping[str, Sequence[str]], prompts: Sequence[str], layer: int = 8
) -> dict[str, str]:
    """`{prompt: adapter}`: by cosine between mean activations of the base, at `layer`'s input.

    The mean over all classes is taken off first, which is most of every activation; `known` has prompts for each
    adapter.
    """
    names = list(known)
    means = torch.stack([_means(meteora, tokenizer, known[name], layer).mean(0) for name in names])
    centre = means.mean(0)
    classes = torch.nn.functional.normalize(means - centre, dim=1)
    found = _means(meteora, tokenizer, prompts, layer) - centre
    return {prompt: names[index] for prompt, index in zip(prompts, (found @ classes.T).argmax(1).tolist(), strict=True)}


def _means(meteora: Meteora, tokenizer: Any, prompts: Sequence[str], layer: int) -> Tensor:
    """The mean over each prompt's tokens of the input of a decoder layer: `[prompts, hidden]`."""
    model: Any = meteora.model
    seen: list[Tensor] = []

    def look(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _EnoughError

    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    means = torch.zeros(len(ids), model.config.hidden_size)
    hook = model.model.layers[layer].register_forward_pre_hook(look)
    try:
        with evaluating(model), meteora.routing(BASE):
            for rows in packed([len(each) for each in ids], 2048):
                width = max(len(ids[row]) for row in rows)
                batch = torch.tensor([ids[row] + [0] * (width - len(ids[row])) for row in rows])  # none sees a pad
                with suppress(_EnoughError):
                    model(input_ids=batch, use_cache=False)
                for place, row in enumerate(rows):
                    means[row] = seen[-1][place, : len(ids[row])].mean(0)
                seen.clear()
    finally:
        hook.remove()
    return means
