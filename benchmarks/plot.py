"""The results as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_results(results: dict[str, Any], path: Path) -> None:
    """Write bars of the ratios to the base, with the spread over the rounds, one panel for each section."""
    sections = ("decode", "prefill", "adapters")
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, section in zip(figure.subplots(1, len(sections)), sections, strict=True):
        rows = {name: row for name, row in results[section].items() if name != "base"}
        middle = [row["ratio"] for row in rows.values()]
        spread = [
            [row["ratio"] - row["ratio_min"] for row in rows.values()],
            [row["ratio_max"] - row["ratio"] for row in rows.values()],
        ]
        colours = ["#2a7f9e" if name.startswith(("meteora", "N")) else "#b9b9b9" for name in rows]
        bars = axes.barh(list(rows), middle, xerr=spread, color=colours, error_kw={"elinewidth": 1})
        axes.bar_label(bars, [f" {value:.2f}" for value in middle], fontsize=8)
        axes.axvline(1, color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set_title(section)
        axes.set_xlabel("time as a ratio to the base")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
