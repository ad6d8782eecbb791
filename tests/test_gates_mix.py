"""Mixes learnt without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from meteora_rs import Meteora, Mix
from meteora_rs.errors import AdapterNotFoundError
from meteora_rs.gates.mix import learn_mix

PAIRS = [("a", "b"), ("c", "d")]


class Valley:
    """A loss with its floor at known weights, in place of a model's; counts how often it is taken."""

    def __init__(self, floor: dict[str, float]) -> None:
        self.floor = floor
        self.taken: list[dict[str, float]] = []

    def __call__(self, meteora: Meteora, tokenizer: Any, pairs: Sequence[Any], route: Mix) -> list[tuple[float, int]]:
        self.taken.append(dict(route.weights))
        distance = sum((weight - self.floor.get(name, 0)) ** 2 for name, weight in route.weights.items())
        return [(1.0 + distance, 1), (3.0 + distance, 3)]


def learn(loaded: Meteora, valley: Valley, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Mix:
    monkeypatch.setattr("meteora_rs.gates.mix.response_losses", valley)
    return learn_mix(loaded, PAIRS, tokenizer=None, progress=False, **more)


def test_the_floor_is_found(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = learn(loaded, Valley({"math": 0.7, "law": 0.3}), monkeypatch, penalty=0.0)
    assert set(mix.weights) == {"math", "law"}
    assert mix.weights["math"] == pytest.approx(0.7, abs=0.07)
    assert mix.weights["law"] == pytest.approx(0.3, abs=0.07)


def test_one_adapter_or_none_may_be_best(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learn(loaded, Valley({"sql": 1.0}), monkeypatch, penalty=0.0) == Mix({"sql": 1.0})
    assert sum(learn(loaded, Valley({}), monkeypatch).weights.values()) == 0


def test_it_stops_in_time_and_repeats_nothing(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    valley = Valley({"math": 8.0, "law": 5.0, "sql": 3.0})
    first = learn(loaded, valley, monkeypatch, evaluations=9)
    assert len(valley.taken) == 5 + 9
    assert len({tuple(sorted(weights.items())) for weights in valley.taken}) == len(valley.taken)
    assert learn(loaded, valley, monkeypatch, evaluations=9) == first


def test_only_the_adapters_that_are_named(loaded: Meteora, monkeypatch: pytest.MonkeyPatch) -> None:
    valley = Valley({"math": 0.7, "law": 0.3})
    mix = learn(loaded, valley, monkeypatch, adapters=["law", "sql"])
    assert set(mix.weights) == {"law"}
    assert all(set(weights) == {"law", "sql"} for weights in valley.taken)


def test_what_can_not_be_learnt(loaded: Meteora) -> None:
    for options in ({"pairs": []}, {"adapters": []}, {"penalty": -1.0}, {"evaluations": 0}):
        given: dict[str, Any] = {"pairs": PAIRS, **options}
        with pytest.raises(ValueError, match="learn_mix: at least one pair"):
            learn_mix(loaded, given.pop("pairs"), tokenizer=None, progress=False, **given)


def test_names_must_be_live(loaded: Meteora) -> None:
    class Letters:
        eos_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [3 + ord(letter) % 90 for letter in text]}

    with pytest.raises(AdapterNotFoundError, match="gone"):
        learn_mix(loaded, PAIRS, tokenizer=Letters(), adapters=["gone"], progress=False)
    mix = learn_mix(loaded, PAIRS, tokenizer=Letters(), evaluations=4, progress=False)
    assert set(mix.weights) <= {"math", "law", "sql"}
