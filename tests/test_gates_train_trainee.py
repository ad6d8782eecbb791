"""The objective: both terms against what the model and its inputs say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs import BASE, Auto, Meteora
from meteora_rs.gates.train.data import collate, make_examples
from meteora_rs.gates.train.trainee import SiteGates
from meteora_rs.texts.loss import token_losses
from tiny_numbers import Numbers, attached, texts
from torch import Tensor
from torch.nn.functional import cross_entropy

NAMES = ["first", "second", BASE]


def prepared(top_k: int) -> tuple[Meteora, SiteGates, dict[str, Tensor]]:
    """A model whose live gates are those in training, and a batch of unequal lengths."""
    meteora = attached()
    gates = SiteGates(meteora, NAMES, None, top_k, seed=0)
    with torch.no_grad():
        for weight in gates.weights:
            weight.mul_(200)
    meteora.model.eval().requires_grad_(False)
    examples = [each[0] for each in make_examples(texts(0), Numbers(), 64)]
    return meteora, gates, collate(examples)


def test_the_language_model_loss_is_that_of_the_same_live_gates() -> None:
    meteora, gates, batch = prepared(2)
    lm_loss = float(gates(**batch)[0].detach())  # while Arrow's rows are live; the graph holds a snapshot, so it goes
    meteora.set_gates(gates.rows())
    encoded = [
        (ids[mask.bool()].tolist(), int((target >= 0).sum()))
        for ids, mask, target in zip(batch["input_ids"], batch["attention_mask"], batch["targets"], strict=True)
    ]
    found = token_losses(meteora, encoded, Auto(only=NAMES[:2]), top_k=2)
    assert lm_loss == pytest.approx(sum(n for n, _ in found) / sum(c for _, c in found), abs=1e-5)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_gate_loss_is_the_mean_over_sites_and_tokens(top_k: int) -> None:
    meteora, gates, batch = prepared(top_k)
    per_site: list[Tensor] = []
    handles = []
    for site in meteora.sites:

        def look(_: Any, inputs: tuple[Tensor], site: Any = site) -> None:
            index = gates.paths.index(meteora.groups[site.group].leader.path)
            logits = inputs[0].detach() @ gates.weights[index].T + gates.biases[index]
            labels = batch["labels"][:, None].expand(logits.shape[:2])
            mask = batch["attention_mask"].bool()
            per_site.append(cross_entropy(logits[mask], labels[mask]).detach())

        handles.append(meteora.model.get_submodule(site.path).register_forward_pre_hook(look))
    _, loss = gates(**batch)
    for handle in handles:
        handle.remove()
    assert len(per_site) == len(meteora.sites) == 14
    assert float(loss.detach()) == pytest.approx(float(torch.stack(per_site).mean()), abs=1e-6)


def test_one_adapter_a_token_has_no_gradient_through_the_model() -> None:
    """Hence none is taken then: the whole graph would say the same."""
    _, gates, batch = prepared(1)
    lm_loss, loss = gates(**batch)
    assert not lm_loss.requires_grad
    short = torch.autograd.grad(loss, list(gates.weights))
    type(gates).through_model = property(lambda self: True)  # type: ignore[assignment,method-assign]
    try:
        lm_loss, loss = gates(**batch)
        whole = torch.autograd.grad(lm_loss + loss, list(gates.weights), allow_unused=True)
    finally:
        type(gates).through_model = property(lambda self: self._top_k > 1)  # type: ignore[assignment,method-assign]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(short, whole, strict=True))


def test_gradients_are_those_of_the_objective() -> None:
    _, gates, batch = prepared(3)  # all three classes are chosen: the objective has no jumps
    direction = [torch.randn_like(weight) for weight in gates.weights]

    def objective(step: float) -> float:
        with torch.no_grad():
            for weight, each in zip(gates.weights, direction, strict=True):
                weight.add_(each, alpha=step)
        lm_loss, loss = gates(**batch)
        with torch.no_grad():
            for weight, each in zip(gates.weights, direction, strict=True):
                weight.add_(each, alpha=-step)
        return float(lm_loss.detach() + 2 * loss.detach())

    lm_loss, loss = gates(**batch)
    gradients = torch.autograd.grad(lm_loss + 2 * loss, list(gates.weights))
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    assert (objective(1e-3) - objective(-1e-3)) / 2e-3 == pytest.approx(slope, rel=0.02)


def test_nothing_but_gates_is_trained_or_saved() -> None:
    meteora, gates, _ = prepared(2)
    assert len(list(gates.parameters())) == len(gates.state_dict()) == 2 * len(meteora.groups)
    assert not set(map(id, gates.parameters())) & set(map(id, meteora.model.parameters()))
