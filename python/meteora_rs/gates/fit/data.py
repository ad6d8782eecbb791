"""Texts to batches of tokens, each token labelled with the class whose gate row it shall teach."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from meteora_rs.routes import BASE
from meteora_rs.texts.loss import encode_pair
from meteora_rs.texts.packing import packed

Text: TypeAlias = str | tuple[str, str]
"""A text, or a prompt with its response."""

HELD_OUT, OF_TEXTS = 16, 8
"""Texts of a class that never teach: one in eight, and at most so many."""

BREADTH = 3
"""How many times as many tokens of the base's are read as of an adapter's: it is all sorts of text, an adapter one."""


@dataclass(frozen=True)
class Example:
    """One text of a class: its token ids, where the response begins, which tokens teach, and which only test."""

    label: int
    ids: tuple[int, ...]
    response: int
    teach: tuple[int, ...]
    test: tuple[int, ...]
    held_out: bool

    @property
    def encoded(self) -> tuple[tuple[int, ...], int]:
        """The ids, and how many of the last ones a loss on the response counts: never the first of all."""
        return self.ids, len(self.ids) - max(1, min(self.response, len(self.ids) - 1))


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right, where causal attention never lets a pad reach a token.

    ids and mask `[rows, length]` int64; labels and responses `[rows]` int64; teach and test: flat indices into
    rows · length. Neither holds a pad.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    responses: Tensor
    teach: Tensor
    test: Tensor

    @property
    def token_labels(self) -> Tensor:
        """The label of every place, `[rows · length]` int64; a pad has that of its row."""
        return self.labels.repeat_interleave(self.ids.shape[1])

    def in_sums(self, sparse: int) -> Tensor:
        """Which of the teaching tokens go into sums, `[len(teach)]` bool: of each text one place in `sparse`."""
        return self.teach % self.ids.shape[1] % sparse == 0

    @property
    def answering(self) -> Tensor:
        """Which places predict a token of the response, `[rows · length]` bool; pads behind it are among them."""
        places = torch.arange(self.ids.shape[1])
        return (places >= self.responses[:, None] - 1).flatten()


def make_examples(
    data: Mapping[str, Sequence[Text]],
    tokenizer: Any,
    *,
    tokens: int,
    read: int,
    max_length: int,
    tests_per_class: int,
    seed: int,
) -> list[Example]:
    """Tokenises every class and draws the tokens that teach and those that test, none of them both.

    The texts of a class come in a drawn order, those first that are held out, which only test, then as many as fit into
    `read` tokens (one at least); these teach with about `tokens` tokens together. Both are `BREADTH` times as many for
    the base. A class with too few texts to hold any out keeps a quarter of each text's drawn tokens back instead.
    Labels follow the order of `data`.

    Raises:
        ValueError: a class without a text of two tokens or more, or with something that is no text.
    """
    for name, texts in data.items():
        check_texts(name, texts)
    draw = random.Random(seed)
    examples = []
    for label, (name, texts) in enumerate(data.items()):
        breadth = BREADTH if name == BASE else 1
        encoded = [pair for text in texts if len((pair := encode(text, tokenizer, max_length))[0]) > 1]
        if not encoded:
            raise ValueError(f"fit_gates: {name!r} has no text of two tokens or more")
        draw.shuffle(encoded)
        held = min(HELD_OUT, len(encoded) // OF_TEXTS)
        for ids, response in encoded[:held]:
            drawn = _draw(draw, len(ids), -(-tests_per_class // held))
            examples.append(Example(label, tuple(ids), response, (), tuple(sorted(drawn)), True))
        taught = _within(encoded[held:], breadth * read)
        share = -(-breadth * tokens // len(taught))
        reserved = 0 if held else -(-tests_per_class // len(taught))
        for ids, response in taught:
            kept = min(reserved, len(ids) // 4)
            drawn = _draw(draw, len(ids), share + kept)
            teach, test = tuple(sorted(drawn[kept:])), tuple(sorted(drawn[:kept]))
            examples.append(Example(label, tuple(ids), response, teach, test, False))
    return examples


def one_in_three(examples: Sequence[Example]) -> list[Example]:
    """Every third text of those that teach, one of each class at least, with all its tokens but those that test.

    What passes before the last read: their gates only bring that one about the right activations.
    """
    seen: dict[int, int] = {}
    some = []
    for example in examples:
        if not example.held_out:
            if seen.get(example.label, 0) % 3 == 0:
                places = set(range(len(example.ids))) - set(example.test)
                some.append(replace(example, teach=tuple(sorted(places))))
            seen[example.label] = seen.get(example.label, 0) + 1
    return some


def check_texts(name: str, texts: Sequence[Text]) -> None:
    """Refuse what is no list of texts.

    Raises:
        ValueError: a string instead of a list, or an item that is neither a text nor a pair of texts.
    """
    for text in [texts] if isinstance(texts, str) else texts:
        # JSON has no tuples, so lists are pairs as well.
        pair = isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text)
        if isinstance(texts, str) or not (isinstance(text, str) or pair):
            raise ValueError(f"{name!r}: a list of texts or (prompt, response) pairs is needed, not {text!r}")


def encode(text: Text, tokenizer: Any, max_length: int) -> tuple[list[int], int]:
    """At most `max_length` token ids of a text, or of prompt + response + end of text, and where the response begins.

    A long pair loses the beginning of its prompt, so that the response stays; a long text loses its end. A text
    without a prompt is all response.
    """
    if isinstance(text, str):
        return list(tokenizer(text)["input_ids"])[:max_length], 0
    prompt, response = encode_pair(tokenizer, text)
    response = response[: max(1, max_length - min(len(prompt), max_length // 2))]
    prompt = prompt[max(0, len(prompt) + len(response) - max_length) :]
    return prompt + response, len(prompt)


def _within(encoded: list[tuple[list[int], int]], read: int) -> list[tuple[list[int], int]]:
    total = 0
    for count, (ids, _) in enumerate(encoded):
        total += len(ids)
        if count and total > read:
            return encoded[:count]
    return encoded


def _draw(draw: random.Random, length: int, count: int) -> list[int]:
    """`count` places of a text, at most all, prompt and response alike.

    More of the short responses, which are alike from task to task, cost near twins 0.06 nats.
    """
    return draw.sample(range(length), min(count, length))


def batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[Batch]:
    """The examples, longest first, in batches of at most `batch_tokens` tokens with their pads.

    An example longer than `batch_tokens` is alone.
    """
    for rows in packed([len(example.ids) for example in examples], batch_tokens):
        yield _pad([examples[row] for row in rows])


def _pad(rows: Sequence[Example]) -> Batch:
    length = len(rows[0].ids)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(rows):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    teach = [row * length + place for row, example in enumerate(rows) for place in example.teach]
    test = [row * length + place for row, example in enumerate(rows) for place in example.test]
    return Batch(
        ids,
        mask,
        torch.tensor([example.label for example in rows]),
        torch.tensor([example.response for example in rows]),
        torch.tensor(teach, dtype=torch.int64),
        torch.tensor(test, dtype=torch.int64),
    )
