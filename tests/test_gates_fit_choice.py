"""Which gates of several are taken, and what is in force then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.gates.fit.choice import NOISE, Candidate, Chosen, choose_gates
from meteora_rs.gates.fit.held_out import HeldOut
from meteora_rs.gates.fit.sweeps import Gates
from tiny_numbers import ALPHABETS, attached, example

NAMES = list(ALPHABETS)
OWN = 1.0
HELD = [example(4 + label, 2, label) for label in range(len(NAMES))]


def all_with(meteora: Meteora, bias: float) -> Gates:
    return {name: {site.path: (torch.zeros(site.in_features), bias) for site in meteora.sites} for name in NAMES}


def choose(monkeypatch: pytest.MonkeyPatch, nats: dict[float, float], **kept: Any) -> tuple[Chosen, float]:
    """The choice between gates with biases 0 and 20, where the loss is `nats` by the bias in force; and that last."""
    meteora = attached()

    def bias() -> float:
        return list(meteora.gate_rows()[NAMES[0]].values())[-1][1]  # the lowest inputs get no prior

    monkeypatch.setattr(
        "meteora_rs.gates.fit.held_out.token_losses",
        lambda _, texts, route, **__: [(nats.get(bias(), 9.0) if route == Auto() else OWN, 1) for _ in texts],
    )
    right = kept.get("right", (0.8, 0.8))
    tried = {
        "closed form": Candidate(all_with(meteora, 0.0), right[0]),
        "refined": Candidate(all_with(meteora, 20.0), right[1]),
    }
    meteora.set_gates(tried["closed form"].gates)
    held = HeldOut(meteora, NAMES, kept.get("examples", HELD), Auto(), lambda _: None)
    return choose_gates(meteora, tried, held), bias()


@pytest.mark.parametrize(("nats", "best"), [({0.0: 2.0, 20.0: 1.5}, 20.0), ({0.0: 1.5, 20.0: 2.0}, 0.0)])
def test_the_least_loss_is_taken(monkeypatch: pytest.MonkeyPatch, nats: dict[float, float], best: float) -> None:
    chosen, in_force = choose(monkeypatch, nats)
    assert chosen.losses == {"closed form": nats[0.0], "refined": nats[20.0]} and chosen.priors == {}
    assert chosen.refined == (best == 20.0) and chosen.loss == nats[best]
    assert in_force == best == list(chosen.gates[NAMES[0]].values())[-1][1]


@pytest.mark.parametrize(
    ("nats", "best"), [({0.0: 1.5, 20.0: 2.0, 21.0: 1.2}, 21.0), ({0.0: 1.5, 1.0: 1.2, 20.0: 1.4}, 1.0)]
)
def test_each_is_tried_with_the_priors_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, nats: dict[float, float], best: float
) -> None:
    chosen, in_force = choose(monkeypatch, nats)
    assert chosen.priors == {NAMES[0]: 1.0} and chosen.refined == (best > 20.0) and chosen.loss == 1.2
    assert in_force == best == list(chosen.gates[NAMES[0]].values())[-1][1]


@pytest.mark.parametrize(("behind", "best"), [(0.9 * NOISE, 20.0), (1.1 * NOISE, 0.0)])
def test_where_losses_are_alike_the_tokens_decide(monkeypatch: pytest.MonkeyPatch, behind: float, best: float) -> None:
    _, in_force = choose(monkeypatch, {0.0: 1.5, 20.0: 1.5 + behind}, right=(0.8, 0.9))
    assert in_force == best


def test_without_held_out_texts_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, in_force = choose(monkeypatch, {}, examples=[example(5, 2, held=False)])
    assert (chosen.refined, chosen.priors, chosen.losses, chosen.loss, in_force) == (False, {}, {}, None, 0.0)
