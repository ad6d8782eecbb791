"""The picture of a training: both terms of the loss over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def plot_curves(curve: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Write the picture of `TrainReport.plot`; `curve`: its lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [line["step"] for line in curve]
    titles = {"lm_loss": "language-model loss on the responses", "gate_loss": "gate loss, mean over sites and tokens"}
    for axes, (term, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        axes.plot(steps, [line[term] for line in curve], color="#2a7f9e", marker="." if len(steps) < 40 else "")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylabel("nats a token")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
