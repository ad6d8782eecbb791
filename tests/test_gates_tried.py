"""Gate rows for requests of one's own."""

from __future__ import annotations

import pytest
import torch
from meteora_rs import BASE, Auto, Meteora
from meteora_rs.errors import AdapterNotFoundError
from meteora_rs.gates.fit import fit_gates
from meteora_rs.gates.tried import Classes, Rows, TriedGates
from tiny_numbers import Numbers, adapter, attached, texts
from torch import Tensor

IDS = torch.tensor([[1, 2, 3, 20, 21, 22, 40, 41, 42]])
NAMES = ["first", "second", BASE]


def fitted() -> Meteora:
    meteora = attached()
    fit_gates(meteora, texts(0), tokenizer=Numbers(), progress=False)
    return meteora


def answer(meteora: Meteora) -> Tensor:
    with torch.no_grad():
        logits: Tensor = meteora.model(input_ids=IDS).logits
    return logits


def own(meteora: Meteora) -> dict[str, Rows]:
    gates = meteora.gate_rows()
    found = {}
    for group in meteora.groups:
        rows = [gates[name][group.leader.path] for name in NAMES]
        found[group.leader.path] = torch.stack([row for row, _ in rows]), torch.tensor([bias for _, bias in rows])
    return found


def test_the_rows_in_force_route_as_auto_does() -> None:
    meteora = fitted()
    with TriedGates(meteora, Classes(meteora, NAMES, 1), own(meteora)).request():
        tried = answer(meteora)
    with meteora.routing(Auto(), top_k=1):
        assert torch.equal(answer(meteora), tried)


@pytest.mark.parametrize("chosen", range(3))
def test_other_rows_are_followed_inside_and_nowhere_else(chosen: int) -> None:
    meteora = fitted()
    before = answer(meteora)
    rows = {path: (0 * row, torch.eye(3)[chosen]) for path, (row, _) in own(meteora).items()}
    with TriedGates(meteora, Classes(meteora, NAMES, 1), rows).request():
        tried = answer(meteora)
    with meteora.routing(NAMES[chosen]):
        assert torch.equal(answer(meteora), tried)
    assert torch.equal(answer(meteora), before)


def test_an_adapter_that_no_gate_may_choose_is_among_them() -> None:
    meteora = fitted()
    torch.manual_seed(9)
    meteora.load_adapter(adapter(meteora), "third", gate="none")
    rows = {group.leader.path: (torch.zeros(1, group.leader.in_features), torch.zeros(1)) for group in meteora.groups}
    with TriedGates(meteora, Classes(meteora, ["third"], 1), rows).request():
        tried = answer(meteora)
    with meteora.routing("third"):
        assert torch.equal(answer(meteora), tried)


def test_the_choice_holds_who_leaves() -> None:
    meteora = fitted()
    classes, rows = Classes(meteora, NAMES, 1), own(meteora)
    with meteora.routing(Auto(), top_k=1):
        before = answer(meteora)
    meteora.unload_adapter("first")
    with TriedGates(meteora, classes, rows).request():
        assert torch.equal(answer(meteora), before)
    with pytest.raises(AdapterNotFoundError, match="first"):
        Classes(meteora, NAMES, 1)
