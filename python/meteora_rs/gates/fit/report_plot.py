"""The picture of a fit: who is taken for whom, and how often each kind of input routes right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def plot_report(
    names: Sequence[str],
    confusion: Sequence[Sequence[float]],
    accuracy: Mapping[str, Mapping[str, float]],
    kinds: Sequence[str],
    path: str | Path,
) -> None:
    """Write the picture of `FitReport.plot`, with the inputs `kinds` of its `accuracy`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = 2.5 + 0.5 * len(names)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)

    matrix = np.asarray(confusion)
    left.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    left.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8, parse_math=False)
    left.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    left.set_xlabel("given to")
    left.set_ylabel("held-out tokens of")
    for (row, column), share in np.ndenumerate(matrix):
        if share >= 0.01:
            colour = "white" if share > 0.5 else "black"
            left.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)

    places = np.arange(len(names))
    for index, kind in enumerate(kinds):
        height = 0.8 / len(kinds)
        shares = [accuracy[name][kind] for name in names]
        right.barh(places + (index - (len(kinds) - 1) / 2) * height, shares, height, label=kind)
    right.set_yticks(places, names, fontsize=8, parse_math=False)
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.set_xlabel("share of held-out tokens routed right, by input")
    if kinds:
        right.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(kinds))
    figure.savefig(path, dpi=130, bbox_inches="tight")
