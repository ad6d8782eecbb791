"""What a fit leaves for adapters that come later: the classes' means, a coarse scatter and a few whole tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from meteora_rs.errors import AdapterFormatError
from meteora_rs.tensor_file import save_tensors

from .collect import GroupActivations

RANK = 128
"""Of the kept scatter. In full it would be `width²`: 400 MB for a model of 135 M parameters."""

TOKENS_PER_CLASS = 16
FORMAT = "1"


@dataclass(frozen=True)
class KeptGroup:
    """One input group's statistics in the pass with the gates on.

    means `[C, w]` f32; middle `[w]` f32, the mean of the means that the rows in force were solved with; factor
    `[w, r]` f16 in units of `factor_unit` (`[]` f32) and diagonal `[w]` f32: scatter ≈ factor · factorᵀ + diagonal;
    tokens `[N, w]` f16 in units of `token_unit`, labels `[N]` i64: held-out activations.
    """

    means: Tensor
    middle: Tensor
    factor: Tensor
    factor_unit: Tensor
    diagonal: Tensor
    tokens: Tensor
    token_unit: Tensor
    labels: Tensor

    def scatter(self) -> Tensor:
        """The coarse scatter, `[w, w]` float64."""
        factor = self.factor.double() * self.factor_unit
        scatter = factor @ factor.T
        scatter.diagonal().add_(self.diagonal.double())
        return scatter

    def with_class(self, label: int, mean: Tensor, tokens: Tensor) -> KeptGroup:
        """With one class more, or another in its place; the scatter stays."""
        others = self.labels != label
        means = self.means.clone() if label < len(self.means) else torch.cat([self.means, mean[None].float()])
        means[label] = mean
        new = (tokens[:TOKENS_PER_CLASS] / self.token_unit).clamp(-_HALF, _HALF).half()
        labels = torch.cat([self.labels[others], torch.full((len(new),), label)])
        kept = torch.cat([self.tokens[others], new])
        return replace(self, means=means, tokens=kept, labels=labels)


_HALF = 6e4  # just within float16


def keep_group(group: GroupActivations) -> KeptGroup:
    """What is kept of a group's activations."""
    means = group.statistics.means().cpu()
    scatter = group.statistics.scatter().float().cpu()
    # What is kept best is the correlations: a few coordinates vary thousands of times as much as the rest.
    spread = scatter.diagonal().clamp(min=1e-30).sqrt()
    factor, factor_unit = _halved(low_rank(scatter / spread / spread[:, None], RANK) * spread[:, None])
    # The diagonal makes up for the rounding too.
    diagonal = (scatter.diagonal() - (factor.float() * factor_unit).square().sum(1)).clamp(min=0)
    x, labels = group.kept_back()
    places: list[int] = []
    for label in range(len(means)):
        found = (labels == label).nonzero()[:, 0]
        places += found[:: max(1, len(found) // TOKENS_PER_CLASS)][:TOKENS_PER_CLASS].tolist()
    tokens, token_unit = _halved(x[places])
    return KeptGroup(
        means.float(), means.mean(0).float(), factor, factor_unit, diagonal, tokens, token_unit, labels[places]
    )


def _halved(x: Tensor) -> tuple[Tensor, Tensor]:
    unit = (x.abs().max() if x.numel() else torch.ones((), dtype=torch.float32)).clamp(min=1e-30) / _HALF
    return (x / unit).half(), unit


def low_rank(scatter: Tensor, rank: int) -> Tensor:
    """F `[w, r]` with F · Fᵀ about the leading part of a positive semi-definite matrix; the same each time.

    Two rounds of subspace iteration (Halko et al. 2011, algorithm 4.4): a whole decomposition takes 20 times longer.
    """
    width = len(scatter)
    start = torch.randn(width, min(width, rank + 8), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    basis = torch.linalg.qr(scatter @ start).Q
    for _ in range(2):
        basis = torch.linalg.qr(scatter @ basis).Q
    values, vectors = torch.linalg.eigh(basis.T @ scatter @ basis)
    leading = slice(max(0, len(values) - rank), None)
    factor: Tensor = (basis @ vectors[:, leading]) * values[leading].clamp(min=0).sqrt()
    return factor


@dataclass(frozen=True)
class KeptStatistics:
    """All groups' statistics, with what the rows in force were fitted with.

    names: of the classes, in the order of their labels; pooled: how many of them are in the scatters; shrinkage: by
    group; temperature: in the rows in force.
    """

    names: list[str]
    pooled: int
    temperature: float
    shrinkage: dict[str, float]
    groups: dict[str, KeptGroup] = field(repr=False)

    def label(self, name: str) -> int:
        """The class's place, or that of one more."""
        return self.names.index(name) if name in self.names else len(self.names)

    def save(self, path: Path) -> None:
        """Write as safetensors.

        Raises:
            OSError: it can't be written.
        """
        tensors = {
            f"{group}.{key}": value.contiguous()
            for group, kept in self.groups.items()
            for key, value in vars(kept).items()
        }
        about = {"names": self.names, "pooled": self.pooled, "temperature": self.temperature}
        about["shrinkage"] = self.shrinkage
        metadata = {"format": "pt", "statistics_format": FORMAT, "statistics": json.dumps(about)}
        save_tensors(tensors, path, metadata=metadata)

    @staticmethod
    def load(path: Path, widths: dict[str, int]) -> KeptStatistics:
        """Read what `save` wrote, for a model whose input groups have these widths.

        Raises:
            AdapterFormatError: a field or a tensor is missing or has another form.
            OSError: it can't be read.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("statistics_format") != FORMAT:
                    raise ValueError(f"format {metadata.get('statistics_format')!r}; this version reads {FORMAT}")
                about = json.loads(metadata["statistics"])
                kept = KeptStatistics(
                    [str(name) for name in about["names"]],
                    int(about["pooled"]),
                    float(about["temperature"]),
                    {str(group): float(value) for group, value in about["shrinkage"].items()},
                    {group: _read_group(file, group) for group in widths},
                )
            kept._check(widths)
            return kept
        except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            raise AdapterFormatError(
                f"no statistics of a fit: {type(error).__name__}: {error} (file: {path})"
            ) from error

    def _check(self, widths: dict[str, int]) -> None:
        if not (self.pooled >= 1 and self.temperature > 0 and set(self.shrinkage) == set(widths)):
            raise ValueError("pooled, temperature or shrinkage is out of range")
        for group, width in widths.items():
            kept, tokens = self.groups[group], len(self.groups[group].labels)
            shapes = {
                "means": (len(self.names), width),
                "middle": (width,),
                "factor": (width, kept.factor.shape[-1]),
                "factor_unit": (),
                "diagonal": (width,),
                "tokens": (tokens, width),
                "token_unit": (),
                "labels": (tokens,),
            }
            for key, shape in shapes.items():
                tensor = getattr(kept, key)
                if tuple(tensor.shape) != shape or not tensor.isfinite().all():
                    raise ValueError(
                        f"tensor {group}.{key}: finite numbers of shape {shape}, not {tuple(tensor.shape)}"
                    )
            if tokens and not (kept.labels.min() >= 0 and kept.labels.max() < len(self.names)):
                raise ValueError(f"tensor {group}.labels: a label that no class has")


def _read_group(file: Any, group: str) -> KeptGroup:
    return KeptGroup(**{each.name: file.get_tensor(f"{group}.{each.name}") for each in fields(KeptGroup)})
