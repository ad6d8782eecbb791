"""One batch of prompts, answered greedily, and who served the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from meteora_rs.errors import MeteoraError
from meteora_rs.routes import BASE, Auto, Route
from meteora_rs.texts.loss import encode_pair, evaluating
from meteora_rs.texts.pieces import decode_pieces

from .composite import has_begun
from .greedy import Batch

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora
    from meteora_rs.routing.trace import Floats, Trace


@dataclass(frozen=True)
class Answer:
    """A text, and where gates chose, who served it.

    Attributes:
        tokens: how many were generated, the one that ends the answer left out.
        shares: mean weight of each adapter, and of the base, over the answer's tokens and all sites.
        served: runs of characters as (adapter, characters): the one with the most weight over all sites leads a
            token.
        nats: of the wanted response, if it was given: the cross-entropy summed over it and its end, and the tokens.
        first_end: after how many characters it would have ended, had an end not been read as a line break.
    """

    text: str
    tokens: int
    shares: dict[str, float]
    served: list[tuple[str, int]]
    nats: tuple[float, int] | None = None
    first_end: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def answer_batch(
    meteora: Meteora,
    tokenizer: Any,
    prompts: Sequence[str],
    route: Route,
    max_new_tokens: int,
    *,
    top_k: int | None = None,
    responses: Sequence[str] = (),
    questions: int = 0,
) -> list[Answer]:
    """Answer prompts with at most `max_new_tokens` tokens each, under one route, which has another `top_k` if given.

    With `responses`, one for each prompt, also the loss on them: prompts are then read once for both. With `questions`
    an end before the number of the last question has come is read as a line break.

    Raises:
        AdapterNotFoundError, RouteError: as `Meteora.routing`.
        MeteoraError: `questions`, and the tokenizer has no line break.
    """
    model: Any = meteora.model
    ends = _end_tokens(model, tokenizer)
    instead = None
    if questions:
        line_break = _line_break(tokenizer)

        def instead(said: list[int]) -> int | None:
            return None if has_begun(tokenizer.decode(said), questions) else line_break

    served = Served(meteora) if isinstance(route, Auto) else None
    with evaluating(model), meteora.routing(route, top_k=top_k):
        encoded = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
        batch = Batch(model, encoded, served.watch if served else None)
        losses: Sequence[tuple[float, int] | None] = [None] * len(prompts)
        if responses:
            losses = batch.losses([encode_pair(tokenizer, ("", response))[1] for response in responses])
        found = batch.answers(max_new_tokens, ends, instead)
    answers = []
    for row, ids in enumerate(found):
        pieces = decode_pieces(tokenizer, ids)
        shares, runs = served.answer(row, pieces) if served and pieces else ({}, [])
        first_end = batch.first_end.get(row, len(ids))
        early = len("".join(pieces[:first_end])) if first_end < len(ids) else None
        answers.append(Answer("".join(pieces), len(ids), shares, runs, losses[row], early))
    return answers


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    return {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}


def _line_break(tokenizer: Any) -> int:
    ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if not ids:
        raise MeteoraError("the tokenizer has no line break, so answers can't be made complete")
    return int(ids[-1])


class Served:
    """Who served a batch's tokens: a token comes out of the pass before it, the first one out of the prompt's last."""

    def __init__(self, meteora: Meteora) -> None:
        self._meteora = meteora
        self._names: list[str] = []
        self._weights: dict[int, list[Floats]] = {}  # by row, then token: the mean over all sites

    @contextmanager
    def watch(self, rows: Sequence[int]) -> Iterator[None]:
        """Note who serves the last token of each row that goes through the model inside the block."""
        with self._meteora.trace() as trace:
            yield
        self._names = [trace.names[slot] for slot in sorted(trace.names)]
        for row, weights in zip(rows, _last_weights(trace, len(rows)), strict=True):
            self._weights.setdefault(row, []).append(weights)

    def answer(self, row: int, pieces: Sequence[str]) -> tuple[dict[str, float], list[tuple[str, int]]]:
        """The shares and the runs of an `Answer` made of `pieces`, one for each token."""
        weights = np.stack(self._weights[row][: len(pieces)])
        whole = np.concatenate([weights, np.clip(1 - weights.sum(axis=1, keepdims=True), 0, None)], axis=1)
        names = [*self._names, BASE]
        shares = dict(zip(names, np.round(whole.mean(axis=0, dtype=np.float64), 4).tolist(), strict=True))
        leaders = zip(whole.argmax(axis=1).tolist(), pieces, strict=True)
        runs = groupby(leaders, key=lambda leader: leader[0])
        return shares, [(names[index], sum(len(piece) for _, piece in run)) for index, run in runs]


def _last_weights(trace: Trace, rows: int) -> Floats:
    """Mean weight over all sites of one pass for each row's last token: `[rows, adapters]`.

    All rows at once: `Trace.token_weights` keeps every site apart, which for a batch takes longer than answering it.
    """
    slots = sorted(trace.names)
    step = np.zeros((rows, len(slots)), np.float32)
    if trace.records and trace.records[0].slots.size:  # else there is nothing that gates could choose
        chosen = np.stack([record.slots[:, -1] for record in trace.records])  # [sites, rows, k]
        weights = np.stack([record.weights[:, -1] for record in trace.records])
        for column, slot in enumerate(slots):
            step[:, column] = (weights * (chosen == slot)).sum(axis=(0, 2))
    return step / np.float32(len(trace.sites))
