"""Requests of every kind, and how they are answered: by `generate` in a thread, or step by step in an asyncio task."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from meteora_rs import Auto, Meteora, Mix, Route
from meteora_rs.serving.requests import Routing
from tiny import logits, prompt
from torch import Tensor
from transformers import LogitsProcessorList

from soak.library import NAMES

STEPS = 4
ALIAS, GROUP = "prod", "tenant"
PROMPTS = 8
"""Few enough that many requests can share one answer of the oracle's."""

Seen = tuple[tuple[str, str, str], ...]
"""(name, source, gate) of the adapters that a request can reach, in slot order: sums run in that order."""


@dataclass(frozen=True)
class Request:
    """One route for all rows or a tuple with one for each; None: no `routing()` at all."""

    routes: Route | tuple[Route, ...] | None
    seed: int
    stepwise: bool = False
    rows: int = 2

    def named(self, seen: Seen) -> Request:
        """The same request with its aliases and groups replaced by what they stood for."""
        if self.routes == ALIAS:
            return replace(self, routes=seen[0][0])
        if self.routes == Auto(only=f"@{GROUP}"):
            return replace(self, routes=Auto(only=sorted(name for name, _, _ in seen)))
        return self


@dataclass(frozen=True)
class Answer:
    """What came out, as a digest of all its bits, and what was live when it began."""

    request: Request
    seen: Seen
    digest: bytes


def draw_request(random: Random, stepwise: bool) -> Request:
    """A request of any kind."""

    def route() -> Route:
        kind = random.randrange(6)
        if kind < 2:
            return random.choice(NAMES)
        if kind < 4:
            return Auto(only=sorted(random.sample(NAMES, 2)))
        if kind == 4:
            return Mix({name: 0.5 + at for at, name in enumerate(sorted(random.sample(NAMES, 2)))})
        return "__base__"

    kind = random.randrange(10)
    routes: Route | tuple[Route, ...] | None = (route(), Auto()) if kind == 0 else (route(), route())
    if kind > 7:
        routes = ALIAS if kind == 8 else Auto(only=f"@{GROUP}")
    elif kind > 1:
        routes = Auto() if kind == 2 else None if kind == 3 and not stepwise else route()
    return Request(routes, random.randrange(PROMPTS), stepwise)


def _block(meteora: Meteora, request: Request) -> Routing | nullcontext[None]:
    if request.routes is None:
        return nullcontext()
    return meteora.routing(list(request.routes) if isinstance(request.routes, tuple) else request.routes)


def _seen(meteora: Meteora) -> Seen:
    adapters = meteora._context.current().native.adapters()
    return tuple((name, source, gate) for _, name, _, gate, source in adapters)


def _digest(outputs: list[Tensor]) -> bytes:
    together = torch.stack([output.float() for output in outputs]).contiguous()
    return hashlib.blake2b(together.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


def answer(meteora: Meteora, request: Request, between: Callable[[], object] = lambda: None) -> Answer:
    """The answer of `generate`; `between` is called after each step and may raise."""
    seen: list[Seen] = []

    def look(_ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(_seen(meteora))
        between()
        return scores

    model: Any = meteora.model
    with torch.inference_mode(), _block(meteora, request):
        out = model.generate(
            prompt(request.rows, seed=request.seed),
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            logits_processor=LogitsProcessorList([look]),
        )
    assert len(set(seen)) == 1, "a request saw a change"
    return Answer(request, seen[0], _digest(list(out.logits)))


async def answer_stepwise(meteora: Meteora, request: Request) -> Answer:
    """The answer token by token, other tasks in between."""
    ids = prompt(request.rows, seed=request.seed)
    outputs = []
    async with _block(meteora, request):
        seen = _seen(meteora)
        for _ in range(STEPS):
            outputs.append(logits(meteora.model, ids)[:, -1])
            ids = torch.cat([ids, outputs[-1].argmax(-1, keepdim=True)], 1)
            await asyncio.sleep(0)
        assert _seen(meteora) == seen, "a request saw a change"
    return Answer(request, seen, _digest(outputs))
