"""Times of work on the card, without the launches' cost on the host: captured in a graph, replayed."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

REPLAYS = 20


def in_graph(work: Callable[[], object], calls: int) -> tuple[float, float]:
    """Median and spread (largest less smallest) over replays, in µs for each of the `calls` calls that `work` makes."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return replayed(graph.replay, calls)


def replayed(work: Callable[[], object], calls: int) -> tuple[float, float]:
    """The same for work that is repeated as it stands."""
    work()
    times = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / calls)
    return statistics.median(times), max(times) - min(times)
