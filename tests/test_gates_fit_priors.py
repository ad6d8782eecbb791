"""Priors of classes: who gets one, how much, and what is in force then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.gates.fit.data import Example
from meteora_rs.gates.fit.held_out import HeldOut
from meteora_rs.gates.fit.priors import choose_priors, prior_limits
from meteora_rs.gates.fit.sweeps import Gates
from tiny_numbers import ALPHABETS, attached

NAMES = list(ALPHABETS)
EXAMPLES = [Example(label, (label, 1, 2), 1, (), (), True) for label in range(len(NAMES))]
OWN = 1.0


def choose(
    monkeypatch: pytest.MonkeyPatch, routed: Callable[[int, list[float]], float], limit: float = torch.inf
) -> tuple[Meteora, Gates, dict[str, float]]:
    """With losses `routed(label, biases in force)` where gates choose, and `OWN` where a name is given.

    limit: of priors at the last site.
    """
    meteora = attached()
    path = meteora.sites[0].path
    gates: Gates = {name: {site.path: (torch.zeros(site.in_features), 0.0) for site in meteora.sites} for name in NAMES}
    meteora.set_gates(gates)

    def losses(_: Any, encoded: Any, route: Any, **__: Any) -> list[tuple[float, int]]:
        rows = meteora.gate_rows()
        biases = [rows[name][path][1] for name in NAMES]
        return [(OWN if isinstance(route, str) else routed(ids[0], biases), 1) for ids, _ in encoded]

    monkeypatch.setattr("meteora_rs.gates.fit.held_out.token_losses", losses)
    held = HeldOut(meteora, NAMES, EXAMPLES, Auto(), lambda _: None)
    limits = {site.path: torch.full((len(NAMES),), torch.inf, dtype=torch.float32) for site in meteora.sites}
    limits[meteora.sites[-1].path].fill_(limit)
    chosen, priors, _ = choose_priors(meteora, gates, limits, held, held.routed())
    return meteora, chosen, priors


def in_force(meteora: Meteora) -> dict[str, set[float]]:
    return {name: {bias for _, bias in rows.values()} for name, rows in meteora.gate_rows().items() if name in NAMES}


def test_a_class_that_is_served_as_well_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    meteora, _, priors = choose(monkeypatch, lambda *_: OWN)
    assert priors == {}
    assert in_force(meteora) == {name: {0.0} for name in NAMES}


def test_a_prior_grows_as_long_as_all_classes_together_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second class gains up to 2 nats; from there on the first loses more."""

    def routed(label: int, biases: list[float]) -> float:
        prior = biases[1]
        return OWN + (0.5 - 0.1 * prior if label == 1 else max(0.0, prior - 2.0) if label == 0 else 0.0)

    meteora, gates, priors = choose(monkeypatch, routed)
    assert priors == {NAMES[1]: 2.0}
    assert in_force(meteora) == {name: {priors.get(name, 0.0)} for name in NAMES}
    assert {bias for _, bias in gates[NAMES[1]].values()} == {2.0}


def test_what_helps_nobody_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    meteora, _, priors = choose(monkeypatch, lambda label, _: OWN + (0.5 if label == 2 else 0.0))
    assert priors == {}
    assert in_force(meteora) == {name: {0.0} for name in NAMES}


def test_an_input_takes_no_more_of_a_prior_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second class gains by more and more."""
    meteora, gates, priors = choose(
        monkeypatch, lambda label, biases: OWN + (0.5 - 0.1 * biases[1] if label == 1 else 0.0), limit=1.5
    )
    assert priors == {NAMES[1]: 4.0}
    last = meteora.sites[-1].path
    assert {path: bias for path, (_, bias) in gates[NAMES[1]].items()} == {
        site.path: 1.5 if site.path == last else 4.0 for site in meteora.sites
    }
    assert in_force(meteora)[NAMES[1]] == {1.5, 4.0}


def test_a_limit_leaves_every_other_class_nine_tenths_of_its_tokens() -> None:
    logits = torch.randn(600, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    labels = torch.arange(600) % 4
    logits[torch.arange(600), labels] += 2.0
    limits = prior_limits(logits, labels)

    def taken(prior: float, label: int) -> int:
        """Of the class that loses most."""
        raised = logits.clone()
        raised[:, label] += prior
        lost = (logits.argmax(1) == labels) & (raised.argmax(1) == label) & (labels != label)
        return int(labels[lost].bincount().max())

    for label, limit in enumerate(limits.tolist()):
        assert taken(limit - 1e-3, label) <= 15 < taken(limit + 1e-3, label)


@pytest.mark.parametrize("labels", [[], [1, 1, 1]])
def test_where_nobody_can_lose_there_is_no_limit(labels: list[int]) -> None:
    """No token at all, and tokens that their class has lost already."""
    logits = torch.tensor([[1.0, 0.0]] * len(labels), dtype=torch.float32).view(-1, 2)
    assert prior_limits(logits, torch.tensor(labels, dtype=torch.int64)).tolist() == [torch.inf, torch.inf]
