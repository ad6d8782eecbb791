"""The picture of a fit: who is taken for whom, and how often each kind of input routes right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .report import FitReport


def plot_report(report: FitReport, path: str | Path) -> None:
    """Write the picture of `FitReport.plot`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names, kinds = report.classes, list(report.passes[-1].accuracy)
    size = 2.5 + 0.5 * len(names)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)

    confusion = np.asarray(report.confusion)
    left.imshow(confusion, vmin=0, vmax=1, cmap="Blues")
    left.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8, parse_math=False)
    left.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    left.set_xlabel("given to")
    left.set_ylabel("held-out tokens of")
    for (row, column), share in np.ndenumerate(confusion):
        if share >= 0.01:
            colour = "white" if share > 0.5 else "black"
            left.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)

    places = np.arange(len(names))
    for index, kind in enumerate(kinds):
        height = 0.8 / len(kinds)
        shares = [report.accuracy[name][kind] for name in names]
        right.barh(places + (index - (len(kinds) - 1) / 2) * height, shares, height, label=kind)
    right.set_yticks(places, names, fontsize=8, parse_math=False)
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.set_xlabel("share of held-out tokens routed right, by input")
    if kinds:
        right.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(kinds))
    figure.savefig(path, dpi=130, bbox_inches="tight")
