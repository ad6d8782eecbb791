"""What a fit tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PassReport:
    """One pass: how long it took, and how well its gates give kept-back tokens to their own class.

    accuracy: by kind of input (the projection that is called first), the share of right choices over all
    layers, on tokens of the same texts that the pass did not learn from; empty if no text can spare any.
    """

    seconds: float
    accuracy: dict[str, float]


@dataclass(frozen=True)
class FitReport:
    """A finished fit: for each class (adapters and the base) its texts and the tokens it learned from."""

    texts: dict[str, int]
    tokens: dict[str, int]
    passes: Sequence[PassReport]

    @property
    def seconds(self) -> float:
        """The time of all passes."""
        return sum(each.seconds for each in self.passes)

    def __str__(self) -> str:
        classes = [f"{name} ({count} texts, {self.tokens[name]} tokens)" for name, count in self.texts.items()]
        shares = [f"{kind} {share:.3f}" for kind, share in self.passes[-1].accuracy.items()]
        right = ", ".join(shares) or "none kept"
        return f"fitted in {self.seconds:.0f} s: {', '.join(classes)}; kept-back tokens routed right: {right}"
