"""What the op can't follow is refused by name; the base alone can be transformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from meteora_rs import Meteora
from meteora_rs.errors import MeteoraError
from tiny import prompt, tiny_model
from torch import Tensor, nn
from torch.autograd import forward_ad
from transformers import PreTrainedModel

# torch scripts its own derivatives the first time that forward mode is used, and warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def dual(f: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    "dual numbers": dual,
    "dual numbers without gradients": torch.no_grad()(dual),
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](torch.ones(())),
    "vmap": lambda f, x: torch.func.vmap(f)(x[:, None]),
}


class Logits(nn.Module):
    """A model whose output is one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.model(ids, use_cache=False).logits
        return out


@pytest.fixture
def model() -> PreTrainedModel:
    """One whose attention has a forward-mode derivative, so that only adapters stand in its way."""
    return tiny_model(attn_implementation="eager")


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_refused(loaded: Meteora, name: str, trainable: bool) -> None:
    model = loaded.model.requires_grad_(trainable)
    x = model.get_input_embeddings()(prompt()).detach()

    def routed(x: Tensor) -> Tensor:
        with loaded.routing("math"):
            return model(inputs_embeds=x).logits.sum()

    with pytest.raises(MeteoraError, match="reverse-mode autograd"):
        TRANSFORMS[name](routed, x)


@pytest.mark.parametrize("trainable", [False, True])
def test_so_they_are_at_one_linear_where_gradients_are_wanted(loaded: Meteora, trainable: bool) -> None:
    linear = loaded.model.requires_grad_(trainable).model.layers[0].mlp.up_proj
    x = torch.randn(2, linear.in_features).requires_grad_(not trainable)
    with loaded.routing("math"), pytest.raises(MeteoraError, match="reverse-mode autograd"):
        dual(lambda x: linear(x).sum(), x)


def test_the_base_can_be_transformed(loaded: Meteora) -> None:
    model = loaded.model
    x = model.get_input_embeddings()(prompt()).detach()

    def base(x: Tensor) -> Tensor:
        with loaded.routing("__base__"):
            return model(inputs_embeds=x).logits.sum()

    expected = dual(lambda x: tiny_model(attn_implementation="eager")(inputs_embeds=x).logits.sum(), x)
    assert torch.equal(dual(base, x), expected)


@pytest.mark.parametrize("strict", [False, True])
def test_what_outlives_the_call_is_refused(loaded: Meteora, strict: bool) -> None:
    # Dynamo, which reads the code if strict, has an error of its own, which tells where it comes from.
    error, message = (Exception, "refuse_export") if strict else (MeteoraError, "can't be exported")
    with loaded.routing("math"), torch.no_grad(), pytest.raises(error, match=message):
        torch.export.export(loaded.model, (prompt(),), {"use_cache": False}, strict=strict)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_so_it_is_by_torch_jit_and_the_base_can_be_traced(loaded: Meteora) -> None:
    model = Logits(loaded.model)
    with loaded.routing("math"), pytest.raises(MeteoraError, match="can't be exported"):
        torch.jit.trace(model, prompt())
    with loaded.routing("__base__"), torch.no_grad():
        traced = torch.jit.trace(model, prompt())
    assert torch.equal(traced(prompt(seed=1)), Logits(tiny_model(attn_implementation="eager"))(prompt(seed=1)))


def test_one_linear_is_not_exported_either(loaded: Meteora) -> None:
    linear = loaded.model.model.layers[0].mlp.up_proj
    with pytest.raises(MeteoraError, match="can't be exported"):
        torch.export.export(linear, (torch.randn(2, linear.in_features),), strict=False)
