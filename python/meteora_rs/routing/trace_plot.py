"""The picture of a trace: token × site, coloured by the adapter that led there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def plot_trace(
    weights: npt.NDArray[np.float32], adapters: Sequence[str], path: str | Path, tokens: Sequence[str] | None
) -> None:
    """Write the heat map of `Trace.plot`; `weights [tokens, sites, adapters]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    names = [*adapters, "base"]
    base = np.clip(1 - weights.sum(axis=-1, keepdims=True), 0, None)
    leaders = np.concatenate([weights, base], axis=-1).argmax(axis=-1)
    palette = np.concatenate([_colours(len(names) - 1), [[0.88, 0.88, 0.88]]])

    figure = Figure(figsize=(10, max(3.0, 0.16 * len(leaders) + 1.5)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(
        leaders, aspect="auto", interpolation="nearest", cmap=ListedColormap(palette), vmin=0, vmax=len(names) - 1
    )
    axes.set_xlabel("site (adapted linear, first layer to last)")
    axes.set_ylabel("token")
    if tokens is not None:
        labels = [repr(token)[1:-1] for token in tokens]
        axes.set_yticks(range(len(tokens)), labels, fontsize=6, parse_math=False)
    present = sorted(set(leaders.ravel().tolist()))
    axes.legend(
        handles=[Patch(color=palette[index], label=names[index]) for index in present],
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
    )
    figure.savefig(path, dpi=130)


def _colours(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    from matplotlib import colormaps

    listed = np.asarray(colormaps["tab20"](np.arange(20) % 20))[:, :3]
    return listed[np.arange(count) % 20].reshape(count, 3)
