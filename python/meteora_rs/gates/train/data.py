"""Texts in the order in which they train: every class as often as any other, the same order for one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from meteora_rs.gates.fit.data import Text, check_texts, encode
from meteora_rs.texts.loss import padded_left

IGNORED = -100
"""The target of a token that the language-model loss leaves out; torch's own default."""


@dataclass(frozen=True)
class Example:
    """Token ids, how many of the last ones are the response, and the class that they are a sample of."""

    ids: tuple[int, ...]
    response: int
    label: int


def make_examples(data: Mapping[str, Sequence[Text]], tokenizer: Any, max_length: int) -> list[list[Example]]:
    """The examples of each class, in the order of `data`; texts of less than two tokens are left out.

    Raises:
        ValueError: a class without a text of two tokens or more, or with something that is no text.
    """
    classes = []
    for label, (name, texts) in enumerate(data.items()):
        check_texts(name, texts)
        examples = []
        for text in texts:
            ids, start = encode(text, tokenizer, max_length)
            if len(ids) > 1:
                # What begins a text has nothing to be predicted from.
                response = len(ids) - max(1, min(start, len(ids) - 1))
                examples.append(Example(tuple(ids), response, label))
        if not examples:
            raise ValueError(f"train_gates: {name!r} has no text of two tokens or more")
        classes.append(examples)
    return classes


class BalancedExamples(Dataset[Example]):
    """`steps · batch` examples in training order.

    Classes take turns, in a new drawn order each round; each goes through its own texts in a new drawn order each
    time. Within one step long texts come first, so that those that are padded together are alike.
    """

    def __init__(self, classes: Sequence[Sequence[Example]], steps: int, batch: int, seed: int) -> None:
        draw = random.Random(seed)
        stream = _turns([_endless(draw, examples) for examples in classes], draw)
        self._order: list[Example] = []
        for _ in range(steps):
            self._order += sorted((next(stream) for _ in range(batch)), key=lambda example: -len(example.ids))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Example:
        return self._order[index]


def _endless(draw: random.Random, examples: Sequence[Example]) -> Iterator[Example]:
    while True:
        yield from draw.sample(examples, len(examples))


def _turns(streams: list[Iterator[Example]], draw: random.Random) -> Iterator[Example]:
    while True:
        for stream in draw.sample(streams, len(streams)):
            yield next(stream)


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch, padded on the left, so that the model's head runs over no more than the longest response.

    `input_ids`, `attention_mask`, `position_ids` `[rows, length]`, `targets` `[rows, longest response]` (`IGNORED`
    outside a row's response), `labels` `[rows]`; all int64.
    """
    batch = padded_left([(example.ids, example.response) for example in examples])
    longest = max(example.response for example in examples)
    targets = torch.full((len(examples), longest), IGNORED)
    for row, example in enumerate(examples):
        targets[row, longest - example.response :] = torch.tensor(example.ids[-example.response :])
    return {**batch, "targets": targets, "labels": torch.tensor([example.label for example in examples])}
