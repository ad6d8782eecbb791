"""A soak: workers of every kind beside one another, a verifier behind them, and the sums at the end."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import meteora_rs
import torch
from meteora_rs import Meteora, MeteoraConfig
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError, CapacityError, RouteError
from tiny import tiny_model

from soak.accounts import PAUSE, Accounts
from soak.alone import Alone
from soak.changes import change, change_awaited, clear
from soak.library import Library, make_library
from soak.requests import Answer, Request, answer, answer_stepwise, draw_request
from soak.watch import Watchdog, growth, rss_bytes

TASKS = 4
SAMPLES = 200
POOLS = MeteoraConfig(max_adapters=5, pool_rank=56)
"""Room for four of six names at their usual size: loads meet full pools, reloads their own places."""

TIERS = MeteoraConfig(max_adapters=3, pool_rank=40, host_bytes=5 << 16, admission_timeout=2.0)
"""Room for half of the names, and in the host's memory not always for all: somebody is always on the way."""

REFUSALS = (AdapterNotFoundError, AdapterInUseError, CapacityError, RouteError)
"""What a request may be answered that comes at the wrong moment."""


class Fault(Exception):
    """What a client's code may raise in the middle of its request."""


@dataclass
class Report:
    """What happened; sizes in bytes."""

    seconds: float
    answers: int = 0
    computed: int = 0
    interrupted: int = 0
    refused: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    rss: int = 0
    rss_growth: float = 0.0
    rss_noise: float = 0.0


class Soak:
    """Workers that share one attached model; the first failure of any ends all."""

    def __init__(self, folder: Path, seed: int, config: MeteoraConfig = POOLS) -> None:
        self.library: Library = make_library(folder)
        self.meteora: Meteora = meteora_rs.attach(tiny_model(), config)
        self.seed = seed
        self.stop = threading.Event()
        self.progress: dict[str, int] = {}
        self.failures: list[BaseException] = []
        self.answers: queue.Queue[Answer | None] = queue.Queue(maxsize=64)
        self.alone = Alone()
        self.interrupted: Counter[str] = Counter()
        self.changes: dict[str, Counter[str]] = {}

    def run(
        self, seconds: float, generating: int = 2, loading: int = 2, enough: Callable[[Soak], bool] = lambda _: True
    ) -> Report:
        """Everything at once for `seconds`, and on a busy machine longer, until it is `enough`; then the sums.

        Raises:
            AssertionError: an answer is not what it is alone, or rows were left behind, or held and nobody said so.
            TimeoutError: a worker stood still.
        """
        works: dict[str, Callable[[str], None]] = {"tasks": self._serve_tasks}
        works |= {f"generate {at}": self._generate for at in range(generating)}
        works |= {f"load {at}": self._load for at in range(loading)}
        works["accounts"] = self._account
        verify = threading.Thread(target=self._guard, args=("verify", self._verify), daemon=True)
        threads = [threading.Thread(target=self._guard, args=item, daemon=True) for item in works.items()]
        self.progress = dict.fromkeys(works, 0)
        samples = self._watch([*threads, verify], seconds, enough)
        self._settle(threads)
        self._put(None)  # the last: what is still to be checked comes before it
        verify.join()
        self._raise()
        clear(self.meteora)
        after = self.meteora.stats()
        for usage in (after.slots, after.rank_rows):
            assert usage.free == usage.total, f"left behind: {after}"
        assert not after.held, f"requests that never ended: {after}"
        host = after.tiers.get("host")
        assert host is None or host.touched == 0, f"left behind: {after}"
        size, noise = growth(samples[len(samples) // 2 :])
        return Report(
            seconds,
            self.alone.checked,
            self.alone.computed,
            self.interrupted["fault"],
            self.interrupted["refused"],
            dict(sum(self.changes.values(), Counter({"evictions": after.evictions}))),
            samples[-1][1],
            size,
            noise,
        )

    def tried(self) -> set[str]:
        """The changes that were made until now, and how those ended that did not do."""
        return {what for done in list(self.changes.values()) for what in list(done)}

    def _watch(
        self, threads: list[threading.Thread], seconds: float, enough: Callable[[Soak], bool]
    ) -> list[tuple[float, int]]:
        watchdog, samples = Watchdog(), []
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        try:
            while (time.monotonic() < end or not enough(self)) and not self.failures:
                watchdog.look(self.progress)
                samples.append((time.monotonic(), rss_bytes()))
                self.stop.wait(min(1.0, seconds / SAMPLES))
        finally:
            self.stop.set()
            watchdog.close()
        return samples

    def _settle(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(60)
            if thread.is_alive() and not self.failures:
                raise TimeoutError(f"{thread} does not end")
        self._raise()

    def _raise(self) -> None:
        if self.failures:
            raise self.failures[0]

    def _guard(self, name: str, work: Callable[[str], None]) -> None:
        torch.set_num_threads(1)
        try:
            work(name)
        except BaseException as error:
            self.failures.append(error)
            self.stop.set()

    def _account(self, name: str) -> None:
        accounts = Accounts(self.meteora)
        while not self.stop.wait(PAUSE):
            accounts.look()
            self.progress[name] += 1

    def _load(self, name: str) -> None:
        random = Random(f"{self.seed} {name}")
        done = self.changes[name] = Counter()
        while not self.stop.is_set():
            change(self.meteora, self.library, random, done)
            self.progress[name] += 1
            time.sleep(random.choice((0.0, 0.001, 0.01)))

    def _generate(self, name: str) -> None:
        random = Random(f"{self.seed} {name}")

        def between() -> None:
            if random.random() < 0.01:
                raise Fault

        while not self.stop.is_set():
            self._attempt(lambda: answer(self.meteora, draw_request(random, False), between))
            self.progress[name] += 1

    def _attempt(self, serve: Callable[[], Answer]) -> None:
        try:
            self._put(serve())
        except Fault:
            self.interrupted["fault"] += 1
        except REFUSALS:
            self.interrupted["refused"] += 1

    def _put(self, found: Answer | None) -> None:
        while not self.failures:
            try:
                return self.answers.put(found, timeout=1)
            except queue.Full:
                continue

    def _serve_tasks(self, name: str) -> None:
        async def client(random: Random) -> None:
            while not self.stop.is_set():
                request: Request = draw_request(random, True)
                task = asyncio.create_task(answer_stepwise(self.meteora, request))
                if random.random() < 0.05:
                    for _ in range(random.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                (found,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(found, asyncio.CancelledError):
                    self.interrupted["fault"] += 1
                elif isinstance(found, REFUSALS):
                    self.interrupted["refused"] += 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    self._put(found)
                self.progress[name] += 1

        async def loader(random: Random) -> None:
            done = self.changes[name] = Counter()
            while not self.stop.is_set():
                await change_awaited(self.meteora, self.library, random, done)
                await asyncio.sleep(0.001)

        async def clients() -> None:
            draws = [Random(f"{self.seed} {name} {at}") for at in range(TASKS + 1)]
            await asyncio.gather(loader(draws[0]), *(client(random) for random in draws[1:]))

        asyncio.run(clients())

    def _verify(self, name: str) -> None:
        while (found := self.answers.get()) is not None:
            self.alone.check(found)
