"""The first input: left to the base where that costs nothing, and what is in force then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs import BASE, Auto, Meteora
from meteora_rs.gates.fit.first_input import LEFT, is_left, leave_first_input
from meteora_rs.gates.fit.held_out import HeldOut
from meteora_rs.gates.fit.priors import GAIN
from meteora_rs.gates.fit.sweeps import Gates
from tiny_numbers import ALPHABETS, attached, example

ADAPTERS = [name for name in ALPHABETS if name != BASE]
OWN = 1.0


def leave(monkeypatch: pytest.MonkeyPatch, names: list[str], costs: float) -> tuple[Meteora, Gates, float, bool]:
    """With a loss that is `costs` higher where the base has the first input."""
    meteora = attached()
    gates: Gates = {name: {site.path: (torch.ones(site.in_features), 0.5) for site in meteora.sites} for name in names}
    meteora.set_gates(gates)

    def losses(_: Any, texts: Any, route: Any, **__: Any) -> list[tuple[float, int]]:
        rows = meteora.gate_rows().get(BASE, {})
        left = any(bias == LEFT for _, bias in rows.values())
        return [(OWN + costs * (left and route == Auto()), 1) for _ in texts]

    monkeypatch.setattr("meteora_rs.gates.fit.held_out.token_losses", losses)
    examples = [example(4 + label, 2, label) for label in range(len(names))]
    held = HeldOut(meteora, names, examples, Auto(), lambda _: None)
    chosen, after, left = leave_first_input(meteora, gates, held, held.routed())
    return meteora, chosen, held.mean(after), left


def left_paths(meteora: Meteora) -> set[str]:
    rows = meteora.gate_rows()[BASE]
    return {path for path, (row, bias) in rows.items() if is_left(row, torch.tensor(bias))}


@pytest.mark.parametrize("costs", [-0.1, 0.0, 0.9 * GAIN])
def test_the_linears_that_read_the_embedding_are_left_to_the_base(
    monkeypatch: pytest.MonkeyPatch, costs: float
) -> None:
    meteora, gates, loss, left = leave(monkeypatch, [*ADAPTERS, BASE], costs)
    assert left and (loss < OWN) == (costs < 0) and (loss > OWN) == (costs > 0)
    assert left_paths(meteora) == {site.path for site in meteora.groups[0].sites}
    assert {path for path, (_, bias) in gates[BASE].items() if bias == LEFT} == left_paths(meteora)
    leader = meteora.groups[0].leader
    linear = meteora.model.get_submodule(leader.path)
    x = torch.randn(1, 3, leader.in_features)
    with meteora.routing(Auto()), torch.no_grad():
        assert linear(x).equal(torch.nn.functional.linear(x, linear.weight))


def test_where_that_costs_too_much_all_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    meteora, gates, loss, left = leave(monkeypatch, [*ADAPTERS, BASE], 1.1 * GAIN)
    assert not left and loss == OWN and left_paths(meteora) == set()
    assert {bias for _, bias in gates[BASE].values()} == {0.5}


def test_without_a_class_for_the_base_there_is_nobody_to_leave_it_to(monkeypatch: pytest.MonkeyPatch) -> None:
    _, gates, loss, left = leave(monkeypatch, ADAPTERS, -1.0)
    assert not left and loss == OWN and set(gates) == set(ADAPTERS)
