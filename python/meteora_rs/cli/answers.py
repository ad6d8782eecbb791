"""Generated text, token by token, with the adapter that served each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import meteora_rs
from meteora_rs.cli.colour import Palette
from meteora_rs.cli.loading import Model, Tokenizer
from meteora_rs.errors import MeteoraError
from meteora_rs.routes import BASE, Route
from meteora_rs.texts.pieces import decode_pieces


@dataclass(frozen=True)
class Answer:
    """One row's new tokens as texts, the adapter that led each, and the adapters' shares of the whole.

    A token's leader has the most weight over all sites; `shares` are mean weights over the answer's tokens
    and all sites, largest first, the base's included.
    """

    pieces: list[str]
    leaders: list[str]
    shares: dict[str, float]

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces).strip()

    def painted(self, palette: Palette) -> str:
        """The answer with each token in its adapter's colour, on one line."""
        pairs = zip(self.pieces, self.leaders, strict=True)
        return "".join(palette.paint(piece, name) for piece, name in pairs).strip().replace("\n", " ⏎ ")


@dataclass(frozen=True)
class Speaker:
    """A model that answers prompts, with what is needed to ask it."""

    model: Model
    tokenizer: Tokenizer
    meteora: meteora_rs.Meteora

    def answer(self, prompts: Sequence[str], routes: Route | Sequence[Route], max_new_tokens: int) -> list[Answer]:
        """Answer `prompts` greedily in one batch under `routes`, and trace who served each token.

        Raises:
            MeteoraError: a prompt has no token.
            AdapterNotFoundError, RouteError: as `Meteora.routing`.
        """
        inputs = self.tokenizer(list(prompts), return_tensors="pt", padding=True)
        if not all(inputs["attention_mask"].any(dim=1)):
            raise MeteoraError("a prompt is empty: this model's tokenizer makes no token of it, so nothing can follow")
        length = inputs["input_ids"].shape[1]
        with self.meteora.routing(routes), self.meteora.trace() as trace:
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        return [self._read(trace, row, length, ids) for row, ids in enumerate(output[:, length:].tolist())]

    def _read(self, trace: meteora_rs.Trace, row: int, length: int, ids: list[int]) -> Answer:
        eos = self.tokenizer.eos_token_id
        end = ids.index(eos) if eos in ids else len(ids)
        # Token t comes out of the position before it, the first one out of the prompt's last.
        place = slice(length - 1, length - 1 + end)
        pieces = decode_pieces(self.tokenizer, ids[:end])
        return Answer(pieces, trace.leaders(row)[place], shares(trace, row, place))


def shares(trace: meteora_rs.Trace, row: int, place: slice) -> dict[str, float]:
    """The mean weight of each adapter and the base over some tokens of a row and all sites, largest first."""
    weights = trace.token_weights(row)[place]
    if not len(weights):
        return {}
    means = dict(zip(trace.adapters, weights.mean(axis=(0, 1)).tolist(), strict=True))
    means[BASE] = max(0.0, 1 - sum(means.values()))
    return dict(sorted(means.items(), key=lambda item: -item[1]))
