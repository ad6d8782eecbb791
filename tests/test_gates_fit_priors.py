"""Priors of classes: who gets one, how much, and what is in force then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from meteora_rs import Auto, Meteora
from meteora_rs.gates.fit.data import Example
from meteora_rs.gates.fit.held_out import HeldOut
from meteora_rs.gates.fit.priors import choose_priors
from meteora_rs.gates.fit.sweeps import Gates
from tiny_numbers import ALPHABETS, attached

NAMES = list(ALPHABETS)
EXAMPLES = [Example(label, (label, 1, 2), 1, (), (), True) for label in range(len(NAMES))]
OWN = 1.0


def choose(
    monkeypatch: pytest.MonkeyPatch, routed: Callable[[int, list[float]], float]
) -> tuple[Meteora, Gates, dict[str, float]]:
    """With losses `routed(label, biases in force)` where gates choose, and `OWN` where a name is given."""
    meteora = attached()
    path = meteora.sites[-1].path
    gates: Gates = {name: {site.path: (torch.zeros(site.in_features), 0.0) for site in meteora.sites} for name in NAMES}
    meteora.set_gates(gates)

    def losses(_: Any, encoded: Any, route: Any, **__: Any) -> list[tuple[float, int]]:
        rows = meteora.gate_rows()
        biases = [rows[name][path][1] for name in NAMES]
        return [(OWN if isinstance(route, str) else routed(ids[0], biases), 1) for ids, _ in encoded]

    monkeypatch.setattr("meteora_rs.gates.fit.held_out.token_losses", losses)
    held = HeldOut(meteora, NAMES, EXAMPLES, Auto(), lambda _: None)
    chosen, priors, _ = choose_priors(meteora, gates, held, held.routed())
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
    assert in_force(meteora) == {name: {0.0, priors.get(name, 0.0)} for name in NAMES}
    biases = [bias for _, bias in gates[NAMES[1]].values()]
    assert biases == [0.0] + 13 * [2.0]  # the lowest tenth of the inputs is left alone


def test_a_prior_that_is_no_better_does_not_hide_a_larger_one_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {0.0: 0.5, 1.0: 0.3, 2.0: 0.3, 4.0: 0.1}
    _, _, priors = choose(monkeypatch, lambda label, biases: OWN + (lost[biases[1]] if label == 1 else 0.0))
    assert priors == {NAMES[1]: 4.0}


def test_what_helps_nobody_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    meteora, _, priors = choose(monkeypatch, lambda label, _: OWN + (0.5 if label == 2 else 0.0))
    assert priors == {}
    assert in_force(meteora) == {name: {0.0} for name in NAMES}
