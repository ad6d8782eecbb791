"""A batch of prompts in a model's cache, answered greedily, and asked for the loss of other answers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from meteora_rs.texts.packing import KEPT, packed

STAYS = 0.75
"""Rows that have ended leave the batch once only this share of it goes on: it costs a copy of the others' cache."""


Instead = Callable[[list[int]], int | None]
Watch = Callable[[Sequence[int]], AbstractContextManager[Any]]


class Batch:
    """Prompts that a causal model has read: what all of them begin with once, the rest padded on the left.

    Args:
        prompts: token ids; none is empty.
        watch: makes the block that each pass runs inside of which a next token comes, out of the prompts in the pass.

    Attributes:
        rows: which prompts are still in the batch.
        first_end: see `answers`.
    """

    def __init__(self, model: Any, prompts: Sequence[list[int]], watch: Watch | None = None) -> None:
        self._model, self._watch = model, watch or nullcontext
        parameters = inspect.signature(type(model).forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"  # before transformers 5.24
        self._cache = DynamicCache(config=model.config)
        self._mask = torch.ones(1, 0, dtype=torch.int64)
        self.rows = list(range(len(prompts)))
        self.first_end: dict[int, int] = {}
        common = _common(prompts) if len(prompts) > 1 else 0
        if common:
            self._read([prompts[0][:common]])
            self._cache.batch_repeat_interleave(len(prompts))
        self._mask = self._mask.repeat(len(prompts), 1)
        with self._watch(self.rows):
            self._logits = self._read([prompt[common:] for prompt in prompts])[:, -1]

    def losses(self, responses: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
        """For each prompt the cross-entropy summed over its response, in nats, and the tokens; the batch stays."""
        found: dict[int, tuple[float, int]] = {}
        lengths = [len(response) for response in responses]
        for rows in packed(lengths, KEPT):  # whose logits are held at once
            part = copy.copy(self)
            part._cache = copy.deepcopy(self._cache)
            part._leave_only(rows)
            wanted = [list(responses[row]) for row in rows]
            width = max(map(len, wanted))
            logits = part._logits[:, None]
            if width > 1:
                # Pads on the right: nothing follows that could see them.
                said = torch.tensor([each[:-1] + [0] * (width - len(each)) for each in wanted])
                logits = torch.cat([logits, part._read(said, keep=width - 1)], dim=1)
            targets = torch.tensor([each + [0] * (width - len(each)) for each in wanted], device=logits.device)
            nats = cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
            for place, row in enumerate(rows):
                found[row] = (float(nats[place, : lengths[row]].sum()), lengths[row])
        return [found[row] for row in range(len(responses))]

    def answers(self, limit: int, ends: Collection[int], instead: Instead | None = None) -> list[list[int]]:
        """At most `limit` tokens for each prompt, without the one of `ends` that ends it; uses the batch up.

        `instead`: the token that is said in place of an end after these tokens, or None: it ends there.
        `first_end` then says after how many tokens each answer would have ended.
        """
        found: list[list[int]] = [[] for _ in self.rows]
        goes_on = list(self.rows)
        for step in range(1, limit + 1):
            tokens = self._logits.argmax(-1).tolist()
            said = dict(zip(self.rows, tokens, strict=True))
            for row in goes_on:
                token: int | None = said[row]
                if token in ends:
                    self.first_end.setdefault(row, len(found[row]))
                    token = instead(found[row]) if instead else None
                if token is not None:
                    said[row] = token
                    found[row].append(token)
            goes_on = [row for row in goes_on if len(found[row]) == step]
            if not goes_on or step == limit:
                break
            if len(goes_on) <= STAYS * len(self.rows):
                self._leave_only([self.rows.index(row) for row in goes_on])
            with self._watch(self.rows):
                self._logits = self._read([[said[row]] for row in self.rows])[:, -1]
        return found

    def _read(self, rows: Sequence[Sequence[int]] | Tensor, keep: int = 1) -> Tensor:
        if isinstance(rows, Tensor):
            ids, mask = rows, torch.ones_like(rows)
        else:
            width = max(map(len, rows))
            ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        self._mask = torch.cat([self._mask, mask], dim=1)
        places = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        device = next(self._model.parameters()).device
        output = self._model(
            input_ids=ids.to(device), attention_mask=self._mask.to(device), position_ids=places.to(device),
            use_cache=True, logits_to_keep=keep, **{self._cache_name: self._cache},
        )  # fmt: skip
        logits: Tensor = output.logits
        return logits

    def _leave_only(self, places: Sequence[int]) -> None:
        index = torch.tensor(places)
        self._cache.batch_select_indices(index.to(self._logits.device))
        self._mask, self._logits = self._mask[index], self._logits[index.to(self._logits.device)]
        self.rows = [self.rows[place] for place in places]


def _common(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, at least one of each left over."""
    first, last = min(prompts), max(prompts)  # in order of ids: what these two share, all share
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return min(shared, min(map(len, prompts)) - 1)
