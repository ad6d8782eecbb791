"""Tasks on disk: a folder with `<task>/test.jsonl`, one `{"prompt": …, "response": …}` a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from meteora_rs.errors import MeteoraError

from .composite import SEPARATOR
from .metrics import check
from .metrics.by_task import BY_TASK, COMPOSITES, DEFAULT

TEST = "test.jsonl"


@dataclass(frozen=True)
class Item:
    """A prompt and the answer that is wanted."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Task:
    """Items that are scored alike.

    Attributes:
        parts: for a composite task, whose items ask several questions at once, the tasks of its questions in order;
            the response then joins their answers with `@@@@` and a line break. Else empty.
        metrics: in place of those that the task, or each part, has of its own.
    """

    name: str
    items: tuple[Item, ...]
    parts: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def metrics_of(self, part: str) -> tuple[str, ...]:
        """The metrics of the task itself or of one of its parts; the first one counts."""
        return self.metrics or BY_TASK.get(part, DEFAULT)


def read_tasks(
    folder: str | Path,
    names: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    metrics: Mapping[str, Sequence[str]] | None = None,
) -> list[Task]:
    """Read tasks from a folder: those of `names`, or all that have a `test.jsonl`, in alphabetical order.

    A task's metrics are those of `metrics`, else the paper's for its 28 tasks, else `exact`. A task whose responses
    are joined by `@@@@` is a composite one; its parts are the paper's for 3, 5 and 10 of them, else "1", "2", ….

    Args:
        limit: take the first so many items of each task.

    Raises:
        MeteoraError: no such task, no task at all, or a line that is no item; the message has the file and line.
        OSError: a file can't be read.
    """
    folder, metrics = Path(folder), metrics or {}
    known = sorted(path.parent.name for path in folder.glob(f"*/{TEST}"))
    if not known:
        raise MeteoraError(f"no task in {folder}: none of its folders has a {TEST}")
    if missing := [name for name in [*(names or ()), *metrics] if name not in known]:
        raise MeteoraError(f"no task {missing[0]!r} in {folder}; there are {', '.join(known)}")
    return [_read_task(folder / name / TEST, limit, metrics.get(name)) for name in names or known]


def _read_task(path: Path, limit: int | None, metrics: Sequence[str] | None) -> Task:
    name = path.parent.name
    lines = [(n, line) for n, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1) if line.strip()]
    items = tuple(_item(line, f"{path}, line {number}") for number, line in lines[:limit])
    if not items:
        raise MeteoraError(f"task {name!r} has no items (file: {path})")
    counts = {len(item.response.split(SEPARATOR)) for item in items}
    if len(counts) > 1:
        raise MeteoraError(f"task {name!r}: items with {min(counts)} and with {max(counts)} answers (file: {path})")
    (count,) = counts
    parts = COMPOSITES.get(count, tuple(str(number + 1) for number in range(count))) if count > 1 else ()
    given = tuple(check(metric, f"task {name!r}") for metric in metrics or ())
    return Task(name, items, parts, given)


def _item(line: str, place: str) -> Item:
    try:
        data = json.loads(line)
        item = Item(data["prompt"], data["response"])
    except (ValueError, KeyError, TypeError) as error:
        raise MeteoraError(f'{place}: expected {{"prompt": …, "response": …}} ({error!r})') from error
    if not isinstance(item.prompt, str) or not isinstance(item.response, str) or not item.prompt:
        raise MeteoraError(f"{place}: prompt and response must be texts, the prompt not empty")
    if not all(part.strip() for part in item.response.split(SEPARATOR)):
        raise MeteoraError(f"{place}: the response is empty: nothing could be right")
    return item
