"""What a training of gates did: its options, its time, its loss curves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TERMS = ("lm_loss", "gate_loss")


@dataclass(frozen=True)
class TrainReport:
    """Attributes:
    classes: adapters, and the base if it was a class.
    texts: for each class, how many.
    start: `"rows"` (from gates that were there) or `"cold"`.
    steps: optimizer steps, all runs together where it was resumed.
    seconds: of this run.
    curve: dicts with step, lm_loss and gate_loss (nats, means since the line before) and learning_rate.
    """

    classes: list[str]
    texts: dict[str, int]
    start: str
    top_k: int
    beta: float
    steps: int
    seconds: float
    curve: list[dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return asdict(self)

    def plot(self, path: str | Path) -> None:
        """Write both terms of the loss over the steps as a picture (needs matplotlib).

        Raises:
            ImportError: matplotlib is not installed.
        """
        from .report_plot import plot_curves

        plot_curves(self.curve, path)

    def __str__(self) -> str:
        lines = [
            f"trained from {self.start}: {self.steps} steps, {self.seconds:.0f} s, "
            f"top_k {self.top_k}, beta {self.beta:g}",
            ", ".join(f"{name} ({count} texts)" for name, count in self.texts.items()),
        ]
        if self.curve:
            first, last = self.curve[0], self.curve[-1]
            lines += [f"{term}: {first[term]:.4f} to {last[term]:.4f} nats" for term in TERMS]
        return "\n".join(lines)
