"""Which linears of a model are adapted, and which of them read the same input."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from meteora_rs.errors import MeteoraError

DECODER_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
"""A module path with this in it lies in a decoder layer (LLaMA, Mistral, Qwen2, Gemma, Phi-3, …)."""

OTHER_MODALITIES = re.compile(r"(?:^|[._])(?:vision|visual|image|vit|video|audio|speech)(?:$|[._])")
"""A module path with this in it belongs to what reads pictures or sound (vision_tower, visual, audio_tower, …)."""

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections of one parent that are fed the same tensor; the first one present leads the group."""


@dataclass(frozen=True)
class SiteInfo:
    """One adapted linear: its path, its decoder layer, and the path of the leader of its input group."""

    path: str
    layer: int
    leader: str


def find_sites(model: nn.Module) -> list[SiteInfo]:
    """The adapted linears of `model` in module order: every `nn.Linear` inside a layer of its text decoder.

    The decoder is what transformers' `get_decoder()` says; towers for other modalities are left out by name as well,
    as that look-up is a best effort. So are routers of experts and other linears of the model's own making.

    Raises:
        MeteoraError: the model has none, or is wrapped by PEFT.
    """
    decoder = _decoder_path(model)
    linears = {}
    for path, module in model.named_modules():
        if type(module).__module__.split(".")[0] == "peft":
            raise MeteoraError(
                f"the model is wrapped by PEFT (at {path or 'its root'}: {type(module).__name__}); attach to the model "
                "below it: model = peft_model.unload(), then load its adapters with load_adapter()"
            )
        if not path.startswith(decoder) or OTHER_MODALITIES.search(path):
            continue
        layer = DECODER_LAYER.search(path)
        if layer and isinstance(module, nn.Linear) and not _own_making(module, model.get_submodule(_parent(path))):
            linears[path] = int(layer[1])
    if not linears:
        raise MeteoraError(
            f"{type(model).__name__} has no nn.Linear under a decoder layer ('…layers.<n>.…'): nothing to attach to"
        )
    return [SiteInfo(path, layer, _leader(path, linears)) for path, layer in linears.items()]


def _decoder_path(model: nn.Module) -> str:
    """What the paths of the text decoder's modules begin with; nothing where the whole model is the decoder."""
    get_decoder = getattr(model, "get_decoder", None)
    decoder = get_decoder() if callable(get_decoder) else model
    path = next((path for path, module in model.named_modules() if module is decoder), "")
    return f"{path}." if path else ""


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _own_making(linear: nn.Linear, parent: nn.Module) -> bool:
    """Whether the code of the layer has a forward of its own for this linear: such a one may return anything, as
    Llama 4's router does, or read its weight in another way. Quantized linears come from elsewhere."""
    kind = type(linear)
    return kind.forward is not nn.Linear.forward and kind.__module__ == type(parent).__module__


def _leader(path: str, linears: dict[str, int]) -> str:
    parent, _, name = path.rpartition(".")
    for group in SHARED_INPUTS:
        if name in group:
            return next(candidate for n in group if (candidate := f"{parent}.{n}") in linears)
    return path
