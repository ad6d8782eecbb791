"""What a fit leaves for adapters that come later: a few of each class's texts, and how its rows were solved."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from meteora_rs.errors import AdapterFormatError
from meteora_rs.files.tensor_file import save_tensors

FORMAT = "2"
KEYS = "ids", "lengths", "responses", "labels"

BROKEN = LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, SafetensorError
"""What comes of reading a file that holds anything but what was written."""


@dataclass(frozen=True)
class KeptText:
    """Token ids of one text of a class, and where its response begins."""

    label: int
    ids: tuple[int, ...]
    response: int


@dataclass(frozen=True)
class KeptTexts:
    """The classes of a fit, in the order of their labels, with some texts of each, and what the rows in force are.

    shrinkage: by input group; temperature: that the fit folded into its rows.
    """

    names: list[str]
    temperature: float
    shrinkage: dict[str, float]
    texts: list[KeptText] = field(repr=False)

    def with_class(self, name: str, texts: Sequence[KeptText]) -> KeptTexts:
        """With one class more, or another in its place, whatever the label of its texts."""
        names = self.names if name in self.names else [*self.names, name]
        label = names.index(name)
        others = [text for text in self.texts if text.label != label]
        return replace(self, names=names, texts=others + [replace(text, label=label) for text in texts])

    def without_class(self, name: str) -> KeptTexts:
        """With nothing of a class that has left."""
        if name not in self.names:
            return self
        gone = self.names.index(name)
        texts = [replace(each, label=each.label - (each.label > gone)) for each in self.texts if each.label != gone]
        return replace(self, names=[each for each in self.names if each != name], texts=texts)

    def is_of_the_same_fit(self, other: KeptTexts) -> bool:
        """Whether the rows that both are about are of one fit, whoever has come or gone since."""
        return self.shrinkage is other.shrinkage

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
    def load(path: Path, groups: Sequence[str], vocabulary: int) -> KeptTexts | None:
        """Read what `save` wrote, for a model with these input groups and so many tokens; None: of another format.

        Warns:
            UserWarning: the format is another version's.

        Raises:
            AdapterFormatError: a field or a tensor is missing or has another form.
            OSError: it can't be read.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if (found := metadata.get("statistics_format", FORMAT)) != FORMAT:
                    warnings.warn(
                        f"the texts of a fit are in format {found!r}, and this version reads {FORMAT}: adapters "
                        f"that come with examples need another fit_gates() (file: {path})",
                        UserWarning,
                        stacklevel=2,
                    )
                    return None
                about = json.loads(metadata["statistics"])
                ids, lengths, responses, labels = (_numbers(file.get_tensor(key), key) for key in KEYS)
            ends = [0, *accumulate(lengths)]
            if min(lengths, default=0) < 0 or ends[-1] != len(ids) or not all(0 <= each < vocabulary for each in ids):
                raise ValueError("tensor ids: other than its lengths, or a token that the model has not")
            kept = KeptTexts(
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
        except BROKEN as error:
            raise AdapterFormatError(f"no texts of a fit: {type(error).__name__}: {error} (file: {path})") from error

    def _check(self, groups: set[str]) -> None:
        scales = [self.temperature, *self.shrinkage.values()]
        if set(self.shrinkage) != groups or not all(0 < each < math.inf for each in scales):
            raise ValueError("temperature or shrinkage is out of range")
        if len(set(self.names)) != len(self.names):
            raise ValueError("a name is there twice")
        if {text.label for text in self.texts} != set(range(len(self.names))):
            raise ValueError(f"labels: not one text at least of each of {len(self.names)} classes")
        for text in self.texts:
            if not (len(text.ids) > 1 and 0 <= text.response <= len(text.ids)):
                raise ValueError(f"a text of {len(text.ids)} tokens, label {text.label}, response {text.response}")


def _numbers(tensor: torch.Tensor, key: str) -> list[int]:
    if tensor.dtype != torch.int64 or tensor.dim() != 1:
        raise ValueError(f"tensor {key}: {tensor.dtype} of shape {tuple(tensor.shape)}, not a list of int64")
    numbers: list[int] = tensor.tolist()
    return numbers
