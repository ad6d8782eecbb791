"""Which linears of a model are adapted, and which of them read the same input."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meteora_rs.errors import MeteoraError
from torch import nn

DECODER_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
"""A module path with this in it lies in a decoder layer (LLaMA, Mistral, Qwen2, Gemma, Phi-3, …)."""

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections of one parent that are fed the same tensor; the first one present leads the group."""


@dataclass(frozen=True)
class SiteInfo:
    """One adapted linear: its path, its decoder layer, and the path of the leader of its input group."""

    path: str
    layer: int
    leader: str


def find_sites(model: nn.Module) -> list[SiteInfo]:
    """The adapted linears of `model` in module order: every `nn.Linear` inside a decoder layer.

    Raises:
        MeteoraError: the model has none, or is wrapped by PEFT.
    """
    linears = {}
    for path, module in model.named_modules():
        if type(module).__module__.split(".")[0] == "peft":
            raise MeteoraError(
                f"the model is wrapped by PEFT (at {path or 'its root'}: {type(module).__name__}); attach to the model "
                "below it: model = peft_model.unload(), then load its adapters with load_adapter()"
            )
        layer = DECODER_LAYER.search(path)
        if layer and isinstance(module, nn.Linear):
            linears[path] = int(layer[1])
    if not linears:
        raise MeteoraError(
            f"{type(model).__name__} has no nn.Linear under a decoder layer ('…layers.<n>.…'): nothing to attach to"
        )
    return [SiteInfo(path, layer, _leader(path, linears)) for path, layer in linears.items()]


def _leader(path: str, linears: dict[str, int]) -> str:
    parent, _, name = path.rpartition(".")
    for group in SHARED_INPUTS:
        if name in group:
            return next(candidate for n in group if (candidate := f"{parent}.{n}") in linears)
    return path
