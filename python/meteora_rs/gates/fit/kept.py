"""What a fit leaves for adapters that come later: a few of each class's texts, and how its rows were solved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from meteora_rs.errors import AdapterFormatError
from meteora_rs.routes import BASE
from meteora_rs.tensor_file import save_tensors

from .data import BREADTH, Example

TOKENS = 512
"""Of an adapter's texts that are kept, the shortest that never taught first; of the base's `BREADTH` times as many.

Numbers of token ids, not of activations, which would take a thousand times the bytes and be those of gates that others
have since joined.
"""

FORMAT = "2"


@dataclass(frozen=True)
class KeptText:
    """Token ids of one text of a class, and where its response begins."""

    label: int
    ids: tuple[int, ...]
    response: int


@dataclass(frozen=True)
class KeptStatistics:
    """The classes of a fit, in the order of their labels, with some texts of each, and what the rows in force are.

    shrinkage: by input group; temperature: in the rows in force.
    """

    names: list[str]
    temperature: float
    shrinkage: dict[str, float]
    texts: list[KeptText] = field(repr=False)

    def with_class(self, name: str, examples: Sequence[Example]) -> KeptStatistics:
        """With one class more, or another in its place."""
        names = self.names if name in self.names else [*self.names, name]
        label = names.index(name)
        others = [text for text in self.texts if text.label != label]
        return KeptStatistics(names, self.temperature, self.shrinkage, others + kept_texts(examples, label, name))

    def save(self, path: Path) -> None:
        """Write as safetensors.

        Raises:
            OSError: it can't be written.
        """
        tensors = {
            "ids": torch.tensor([each for text in self.texts for each in text.ids], dtype=torch.int64),
            "lengths": torch.tensor([len(text.ids) for text in self.texts], dtype=torch.int64),
            "responses": torch.tensor([text.response for text in self.texts], dtype=torch.int64),
            "labels": torch.tensor([text.label for text in self.texts], dtype=torch.int64),
        }
        about = {"names": self.names, "temperature": self.temperature, "shrinkage": self.shrinkage}
        metadata = {"format": "pt", "statistics_format": FORMAT, "statistics": json.dumps(about)}
        save_tensors(tensors, path, metadata=metadata)

    @staticmethod
    def load(path: Path, groups: Sequence[str], vocabulary: int) -> KeptStatistics:
        """Read what `save` wrote, for a model with these input groups and so many tokens.

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
                ids, lengths, responses, labels = (
                    file.get_tensor(key).tolist() for key in ("ids", "lengths", "responses", "labels")
                )
            ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).tolist()
            if ends[-1] != len(ids) or not all(0 <= each < vocabulary for each in ids):
                raise ValueError("tensor ids: other than its lengths, or a token that the model has not")
            kept = KeptStatistics(
                [str(name) for name in about["names"]],
                float(about["temperature"]),
                {str(group): float(value) for group, value in about["shrinkage"].items()},
                [
                    KeptText(label, tuple(ids[ends[at] : ends[at + 1]]), response)
                    for at, (label, response) in enumerate(zip(labels, responses, strict=True))
                ],
            )
            kept._check(set(groups))
            return kept
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, SafetensorError) as error:
            raise AdapterFormatError(
                f"no statistics of a fit: {type(error).__name__}: {error} (file: {path})"
            ) from error

    def _check(self, groups: set[str]) -> None:
        if not (self.temperature > 0 and set(self.shrinkage) == groups and min(self.shrinkage.values()) > 0):
            raise ValueError("temperature or shrinkage is out of range")
        if {text.label for text in self.texts} != set(range(len(self.names))):
            raise ValueError(f"labels: not one text at least of each of {len(self.names)} classes")
        for text in self.texts:
            if not (0 <= text.label < len(self.names) and len(text.ids) > 1 and 0 <= text.response <= len(text.ids)):
                raise ValueError(f"a text of {len(text.ids)} tokens, label {text.label}, response {text.response}")


def kept_texts(examples: Sequence[Example], label: int, name: str) -> list[KeptText]:
    """Of a class's examples those to keep (`TOKENS`), one at least."""
    most = TOKENS * (BREADTH if name == BASE else 1)
    taken: list[KeptText] = []
    for example in sorted(examples, key=lambda each: (not each.held_out, len(each.ids))):
        most -= len(example.ids)
        if taken and most < 0:
            break
        taken.append(KeptText(label, example.ids, example.response))
    return taken
