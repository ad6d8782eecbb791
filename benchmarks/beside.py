"""Decode steps with something beside them: nothing, a load a second, or a core that is merely busy."""

from __future__ import annotations

import hashlib
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from meteora_rs import Meteora

from benchmarks.timing import PROMPT, Variant, next_token

STEPS = 96
"""Decode steps of one variant before the next one's turn: some seconds, so that several loads meet them."""


@dataclass
class Scene:
    """A model, what is beside it, and whose steps it is compared with."""

    variant: Variant
    against: str
    beside: Callable[[Scene], AbstractContextManager[Any]] = lambda _: nullcontext()
    steps: list[float] = field(default_factory=list)
    """Milliseconds of each step."""
    begun: list[float] = field(default_factory=list)
    """When each step began, in seconds."""
    acts: list[tuple[float, float]] = field(default_factory=list)
    """When each load began, in seconds, and its milliseconds."""
    failed: int = 0
    """Steps that raised."""


def every_second(act: Callable[[], object]) -> Callable[[Scene], AbstractContextManager[Any]]:
    """Beside a scene: `act` once a second in a thread of its own."""

    @contextmanager
    def beside(scene: Scene) -> Iterator[None]:
        stop = threading.Event()

        def work() -> None:
            torch.set_num_threads(1)
            while not stop.wait(1.0):
                start = time.perf_counter()
                act()
                scene.acts.append((start, (time.perf_counter() - start) * 1e3))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    return beside


def come_and_go(meteora: Meteora, source: Path) -> None:
    """One load and one unload."""
    meteora.load_adapter(source, "comes-and-goes", gate="none")
    meteora.unload_adapter("comes-and-goes")


def spin(milliseconds: float) -> None:
    """Keep a core busy, without the GIL."""
    data, end = bytes(1 << 16), time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end:
        hashlib.sha256(data)


def _spin_for_ever() -> None:
    while True:
        spin(1e3)


@contextmanager
def busy_core(_scene: Scene) -> Iterator[None]:
    """Beside a scene: a process that never rests."""
    process = multiprocessing.get_context("spawn").Process(target=_spin_for_ever, daemon=True)
    process.start()
    time.sleep(0.3)
    try:
        yield
    finally:
        process.kill()
        process.join()


def decode(scene: Scene, tokens: torch.Tensor, warm: bool = False) -> None:
    """`STEPS` greedy steps at batch 1 after a prompt, what is beside them beginning with the first."""
    model = scene.variant.model
    with torch.inference_mode(), scene.variant.block():
        out = model(input_ids=tokens[:, :PROMPT], use_cache=True)
        with nullcontext() if warm else scene.beside(scene):
            for _ in range(4 if warm else STEPS):
                start = time.perf_counter()
                try:
                    out = next_token(model, out)
                except (RuntimeError, KeyError):  # PEFT's dicts change under the step
                    scene.failed += 1
                if not warm:
                    scene.begun.append(start)
                    scene.steps.append((time.perf_counter() - start) * 1e3)


def beside(scenes: Mapping[str, Scene], rounds: int, tokens: torch.Tensor) -> dict[str, dict[str, Any]]:
    """Every scene in turn, `rounds` times; medians, the ratio step by step, and how much later the slow steps are."""
    for scene in scenes.values():
        decode(scene, tokens, warm=True)
    names = list(scenes)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            decode(scenes[name], tokens)
    return {name: summary(scene, scenes[scene.against]) for name, scene in scenes.items()}


def summary(scene: Scene, base: Scene) -> dict[str, Any]:
    """Step `i` of a round is held against step `i` of the same round: both have a cache of one length."""
    pairs = [mine / other for mine, other in zip(scene.steps, base.steps, strict=True)]
    rounds = [statistics.median(pairs[at : at + STEPS]) for at in range(0, len(pairs), STEPS)]
    return {
        "ms": round(statistics.median(scene.steps), 3),
        "ratio": round(statistics.median(pairs), 4),
        "ratio_min": round(min(rounds), 4),
        "ratio_max": round(max(rounds), 4),
        "p99_ms": round(_p99(scene.steps), 3),
        "p99_more_ms": round(_p99(scene.steps) - _p99(base.steps), 3),
        "p99_more_interval_ms": interval(scene.steps, base.steps),
        "worst_ms": round(max(scene.steps), 3),
        "failed_steps": scene.failed,
        "against": scene.against,
        **(acts(scene) if scene.acts else {}),
    }


def acts(scene: Scene) -> dict[str, Any]:
    """How long they took, and how much later the steps were that they met than the median of the others.

    The slowest steps of all are as often the machine's doing; of those that were met there are few, and all count.
    """
    met, others = [], []
    for begun, step in zip(scene.begun, scene.steps, strict=True):
        end = begun + step / 1e3
        meets = any(start < end and start + taken / 1e3 > begun for start, taken in scene.acts)
        (met if meets else others).append(step)
    more = sorted(step - statistics.median(others) for step in met)
    return {
        "acts": len(scene.acts),
        "act_ms": round(statistics.median(taken for _, taken in scene.acts), 3),
        "met_steps": len(met),
        "met_more_ms": [round(value, 3) for value in statistics.quantiles(more, n=4)],
        "met_worst_ms": round(more[-1], 3),
    }


def interval(steps: list[float], base: list[float], draws: int = 400) -> tuple[float, float]:
    """Between which two 95 of 100 differences of the p99 lie, if the steps are drawn anew (bootstrap)."""
    random = Random(0)
    again = lambda values: _p99(random.choices(values, k=len(values)))  # noqa: E731
    differences = statistics.quantiles((again(steps) - again(base) for _ in range(draws)), n=40)
    return round(differences[0], 3), round(differences[-1], 3)


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]
