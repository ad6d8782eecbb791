"""The oracle: the same request, alone, on the adapters that it saw."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import meteora_rs
from meteora_rs import Meteora, MeteoraConfig
from tiny import tiny_model

from soak.library import NAMES, gate_of
from soak.requests import Answer, Request, Seen, answer, answer_stepwise

KEPT = 4096
"""Answers that are remembered; a bound, so that an hour takes no more memory than a minute."""


class Alone:
    """A second model with the same weights, whose adapters nobody else changes."""

    def __init__(self) -> None:
        self._meteora: Meteora = meteora_rs.attach(tiny_model(), MeteoraConfig(max_adapters=len(NAMES), pool_rank=256))
        self._loaded: Seen = ()
        self._known: OrderedDict[tuple[Request, Seen], bytes] = OrderedDict()
        self.checked = self.computed = 0

    def check(self, found: Answer) -> None:
        """Hold an answer against the one that its request gets alone.

        Raises:
            AssertionError: they differ in a bit.
        """
        key = (found.request.named(found.seen), found.seen)
        expected = self._known.pop(key, None)
        if expected is None:
            self.computed += 1
            expected = self._answer(*key)
        self._known[key] = expected
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        self.checked += 1
        assert found.digest == expected, f"{found.request} on {found.seen}: not what it is alone"

    def _answer(self, request: Request, seen: Seen) -> bytes:
        if seen != self._loaded:
            for record in self._meteora.adapters():
                self._meteora.unload_adapter(record.name)
            for name, source, kind in seen:  # slots are given out in order, and sums run in the order of slots
                self._meteora.load_adapter(source, name, gate=gate_of(self._meteora, name, kind))
            self._loaded = seen
        if request.stepwise:
            return asyncio.run(answer_stepwise(self._meteora, request)).digest
        return answer(self._meteora, request).digest
