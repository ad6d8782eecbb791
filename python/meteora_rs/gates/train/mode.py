"""The model as training needs it, and as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from meteora_rs.attached.checkpoint import FUNCTION

SWITCH = "gradient_checkpointing"
"""What transformers' layers have that can be computed again in a backward pass; they ask it in training mode only."""


@contextmanager
def training_mode(model: nn.Module, *, gradient_checkpointing: bool) -> Iterator[None]:
    """Without dropout inside the block; `gradient_checkpointing`: in training mode, layers computed again.

    The layers are told themselves: the model's own method would also make its embeddings need gradients.

    Raises:
        ValueError: no layer of the model can be computed again.
    """
    modes = {module: module.training for module in model.modules()}
    layers = [module for module in model.modules() if hasattr(module, SWITCH)] if gradient_checkpointing else []
    if gradient_checkpointing and not layers:
        raise ValueError(f"train_gates: {type(model).__name__} has no layers that gradient checkpointing knows")
    kept = [(layer, {name: layer.__dict__.get(name) for name in (SWITCH, FUNCTION)}) for layer in layers]
    model.train(gradient_checkpointing)
    for layer in layers:
        # The form that needs no gradient of a layer's input: the first layer's has none, and its gates learn too.
        layer.__dict__.update({SWITCH: True, FUNCTION: partial(checkpoint, use_reentrant=False)})
    try:
        yield
    finally:
        for layer, before in kept:
            for name, value in before.items():
                if value is None:
                    layer.__dict__.pop(name, None)
                else:
                    layer.__dict__[name] = value
        for module, training in modes.items():
            module.training = training
