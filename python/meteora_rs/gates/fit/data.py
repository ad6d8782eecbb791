"""Texts to batches of tokens, each token labelled with the class whose gate row it shall teach."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Text: TypeAlias = str | tuple[str, str]
"""A text, or a prompt with its response."""


@dataclass(frozen=True)
class Example:
    """One text of a class: its token ids, which of them teach, and which of them only test."""

    label: int
    ids: tuple[int, ...]
    teach: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right, where causal attention never lets a pad reach a token.

    ids and mask `[rows, length]` int64; labels `[rows]` int64; teach and test: flat indices into
    rows · length. Neither holds a pad.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    teach: Tensor
    test: Tensor


def make_examples(
    data: Mapping[str, Sequence[Text]],
    tokenizer: Any,
    *,
    max_tokens: int,
    max_length: int,
    tests_per_class: int,
    seed: int,
) -> list[Example]:
    """Tokenises every class and draws the tokens that teach and those that test, none of them both.

    An example teaches with at most `max_tokens` of its tokens; at most `max_length` are read. Pairs become
    prompt + response + end of text. Labels follow the order of `data`.

    Raises:
        ValueError: a class without a text of two tokens or more, or with something that is no text.
    """
    for name, texts in data.items():
        for text in [texts] if isinstance(texts, str) else texts:
            pair = isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)
            if isinstance(texts, str) or not (isinstance(text, str) or pair):
                raise ValueError(f"{name!r}: a list of texts or (prompt, response) pairs is needed, not {text!r}")
    draw = random.Random(seed)
    examples = []
    for label, (name, texts) in enumerate(data.items()):
        encoded = [ids for text in texts if len(ids := encode(text, tokenizer)[:max_length]) > 1]
        if not encoded:
            raise ValueError(f"fit_gates: {name!r} has no text of two tokens or more")
        reserved = -(-tests_per_class // len(encoded))
        for ids in encoded:
            # Never more than a quarter of a short text is kept back.
            kept = min(reserved, len(ids) // 4)
            drawn = draw.sample(range(len(ids)), min(len(ids), max_tokens + kept))
            examples.append(Example(label, tuple(ids), tuple(sorted(drawn[kept:])), tuple(sorted(drawn[:kept]))))
    return examples


def encode(text: Text, tokenizer: Any) -> list[int]:
    """The token ids of a text, or of prompt + response + end of text."""
    if isinstance(text, str):
        return list(tokenizer(text)["input_ids"])
    prompt, response = text
    ids = tokenizer(prompt)["input_ids"] + tokenizer(response, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else ids


def batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[Batch]:
    """The examples, longest first, in batches of at most `batch_tokens` tokens with their pads.

    Longest first: if memory is short, it shows at once. An example longer than `batch_tokens` is alone.
    """
    waiting = sorted(examples, key=lambda example: len(example.ids), reverse=True)
    while waiting:
        rows = max(1, batch_tokens // len(waiting[0].ids))
        yield _pad(waiting[:rows])
        waiting = waiting[rows:]


def _pad(rows: Sequence[Example]) -> Batch:
    length = len(rows[0].ids)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(rows):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    teach = [row * length + place for row, example in enumerate(rows) for place in example.teach]
    test = [row * length + place for row, example in enumerate(rows) for place in example.test]
    labels = torch.tensor([example.label for example in rows])
    return Batch(ids, mask, labels, torch.tensor(teach, dtype=torch.int64), torch.tensor(test, dtype=torch.int64))
