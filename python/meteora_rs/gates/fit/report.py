"""What a fit tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from .choice import Chosen
from .sweeps import Solved, recall

TWIN_SHARE = 0.1
"""Two classes are near twins if more than this share of the one's held-out tokens goes to the other."""


@dataclass(frozen=True)
class PassReport:
    """One pass: how long it took, and how well its gates give kept-back tokens to their own class.

    accuracy: by kind of input (the projection that is called first), the mean over the classes of the share of right
    choices over all layers; empty if no text can spare a token.
    """

    seconds: float
    accuracy: dict[str, float]


@dataclass(frozen=True)
class Twins:
    """Two classes that the gates take for each other: `share` of `name`'s held-out tokens go to `other`."""

    name: str
    other: str
    share: float

    def __str__(self) -> str:
        return (
            f"{self.name!r} loses {self.share:.0%} of its tokens to {self.other!r}: give both more texts that differ, "
            "or serve one of them by name"
        )


@dataclass(frozen=True)
class FitReport:
    """A finished fit, judged on tokens of texts that it did not learn from (of the same texts, if there are few).

    texts, tokens: for each class (adapters and the base) what was given and how many tokens taught.
    accuracy: `{class: {kind of input: share}}` of held-out tokens given to their own class, over all layers.
    confusion: `[class, class]`, the share of the row's held-out tokens given to the column, mean over sites. Both are
    of the gates that were taken, before priors.
    shrinkage: chosen for each kind of input; refinement: nats a token of held-out responses, with the gates of the
    closed form and with the refined ones, each with their priors, of which the better were taken (empty: there was no
    choice); priors: of the classes that needed one, in nats; temperature: folded into the gates; losses: nats a token
    of held-out responses by temperature, and at top_k=1; empty if the temperature was given, or no text could be held
    out.
    """

    classes: list[str]
    texts: dict[str, int]
    tokens: dict[str, int]
    passes: Sequence[PassReport]
    accuracy: dict[str, dict[str, float]]
    confusion: list[list[float]]
    shrinkage: dict[str, float]
    refinement: dict[str, float]
    priors: dict[str, float]
    temperature: float
    losses: dict[str, float]
    choosing_seconds: float

    @property
    def seconds(self) -> float:
        """The time of all passes and of the choice of priors and temperature."""
        return sum(each.seconds for each in self.passes) + self.choosing_seconds

    @property
    def twins(self) -> list[Twins]:
        """The near twins, worst first."""
        found = [
            Twins(name, other, self.confusion[i][j])
            for i, name in enumerate(self.classes)
            for j, other in enumerate(self.classes)
            if i != j and self.confusion[i][j] > TWIN_SHARE
        ]
        return sorted(found, key=lambda pair: -pair.share)

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        twins = [asdict(pair) | {"advice": str(pair)} for pair in self.twins]
        return {**asdict(self), "seconds": self.seconds, "twins": twins}

    def plot(self, path: str | Path) -> None:
        """Write the confusion matrix and the accuracies as a picture (needs matplotlib)."""
        from .report_plot import plot_report

        plot_report(self.classes, self.confusion, self.accuracy, list(self.passes[-1].accuracy), path)

    def __str__(self) -> str:
        classes = [f"{name} ({count} texts, {self.tokens[name]} tokens)" for name, count in self.texts.items()]
        kinds = self.passes[-1].accuracy
        shares = [f"{kind} {mean([each[kind] for each in self.accuracy.values()]):.3f}" for kind in kinds]
        right = ", ".join(shares) or "none kept"
        lines = [f"fitted in {self.seconds:.0f} s: {', '.join(classes)}; kept-back tokens routed right: {right}"]
        shrunk = ", ".join(f"{kind} {value:g}" for kind, value in self.shrinkage.items())
        raised = ", ".join(f"{name} {value:+g}" for name, value in self.priors.items()) or "none"
        if self.refinement:
            tried = ", ".join(f"{name} {nats:.4f}" for name, nats in self.refinement.items())
            lines.append(f"loss on held-out responses, one adapter a token: {tried}")
        lines.append(f"shrinkage: {shrunk}; priors: {raised}; temperature: {self.temperature:g}")
        return "\n".join([*lines, *(f"near twins: {pair}" for pair in self.twins)])


def by_kind(solved: Solved) -> dict[str, float]:
    """`PassReport.accuracy` of the chosen shrinkages."""
    return {kind: float(recall(each)) for kind, each in solved.best_confusions().items() if each.any()}


def make_report(
    names: list[str],
    texts: dict[str, int],
    tokens: Tensor,
    passes: Sequence[PassReport],
    solved: Solved,
    chosen: Chosen,
    temperature: float,
    losses: dict[str, float],
    choosing_seconds: float,
) -> FitReport:
    """The report of a fit whose last pass is `solved`."""
    confusions = solved.refined_confusions if chosen.refined else solved.best_confusions()
    kinds = {kind: _shares(each) for kind, each in confusions.items()}
    sites: dict[str, int] = {}
    for path in solved.rows:
        kind = path.rpartition(".")[2]
        sites[kind] = sites.get(kind, 0) + 1
    confusion = torch.stack([kinds[kind] * count for kind, count in sites.items()]).sum(0) / sum(sites.values())
    return FitReport(
        classes=names,
        texts=texts,
        tokens=dict(zip(names, tokens.int().tolist(), strict=True)),
        passes=passes,
        accuracy={name: {kind: float(each[i, i]) for kind, each in kinds.items()} for i, name in enumerate(names)},
        confusion=confusion.tolist(),
        shrinkage={kind: solved.shrinkages[index] for kind, index in solved.chosen().items()},
        refinement=chosen.losses,
        priors=chosen.priors,
        temperature=temperature,
        losses=losses,
        choosing_seconds=choosing_seconds,
    )


def _shares(counts: Tensor) -> Tensor:
    return counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)
