"""What an evaluation found: as a table, as files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .page import page
from .results import Results, show

JSON, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class Report(Results):
    """`Results` that can be shown and kept."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; what is not a number there is `None`."""
        return _plain(asdict(self))  # type: ignore[no-any-return]

    def write(self, folder: Path) -> None:
        """Write `report.json` and `report.html`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON).write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        (folder / PAGE).write_text(page(self), encoding="utf-8")

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        rows = [["task", "items", "metric", *self.variants, f"loss: {', '.join(self.variants)}" if self.losses else ""]]
        for task in self.tasks:
            for metric in task.metrics:
                scores = [
                    show(task.scores[name][metric], metric) if name in task.scores else "–" for name in self.variants
                ]
                losses = " ".join(f"{task.losses[name].value:.3f}" for name in self.variants if name in task.losses)
                first = metric == task.metrics[0]
                rows.append([task.name if first else "", str(task.items), metric, *scores, losses if first else ""])
        if self.averaged:
            losses = " ".join(f"{loss.value:.3f}" for loss in self.losses.values())
            means = [show(self.means[name]) for name in self.variants]
            rows.append([f"mean of {self.averaged}", "", "", *means, losses])
            ratios = [f"{r.value:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in self.ratios.values()]
            rows.append([f"ratio to {self.reference}", "", "", *ratios, ""])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        yield "Scores in percent, 95% bootstrap intervals; of composite tasks, right and attempted are counts."


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
