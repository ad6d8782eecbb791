"""Times of work on the card, without the launches' cost on the host: captured in a graph, replayed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

REPLAYS = 20


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """The work in a graph, run once before."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which may still be making what the work reads
    with torch.cuda.stream(stream):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph.replay


def times(work: Callable[[], object], repeats: int) -> list[float]:
    """µs of each repetition."""
    found = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) * 1000)
    return found


def replayed(work: Callable[[], object], calls: int) -> tuple[float, float]:
    """Median and spread (largest less smallest) in µs for each of the `calls` calls that `work` makes."""
    work()
    found = [micros / calls for micros in times(work, REPLAYS)]
    return statistics.median(found), max(found) - min(found)


def in_graph(work: Callable[[], object], calls: int) -> tuple[float, float]:
    """The same for work that is captured first."""
    return replayed(captured(work), calls)


def keep(found: object, out: Path) -> None:
    """Write what was found until now, whole or not at all: a time limit may end the process at any moment."""
    part = out.with_name(f"{out.name}.part")
    part.write_text(json.dumps(found))
    part.replace(out)
