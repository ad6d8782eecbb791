"""What a fit reports, as numbers, as JSON and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from meteora_rs.gates.fit import FitReport, PassReport, general_texts
from meteora_rs.gates.fit.choice import Chosen
from meteora_rs.gates.fit.report import make_report
from meteora_rs.gates.fit.sweeps import Solved, recall

NAMES = ["sql", "__base__", "law"]


def solved() -> Solved:
    """Two kinds of input with 3 and 1 sites, two shrinkages; the second is better at o_proj."""
    q = torch.tensor([[8, 0, 2], [0, 10, 0], [3, 0, 7]])
    o = torch.tensor([[5, 5, 0], [0, 10, 0], [0, 0, 10]])
    sites = {f"layers.{i}.q_proj": [] for i in range(3)} | {"layers.0.o_proj": []}
    worse = torch.full((3, 3), 2)
    confusions = {"q_proj": torch.stack([q, worse]), "o_proj": torch.stack([worse, o])}
    right = 10 * torch.eye(3).long()
    return Solved((0.01, 0.1), sites, confusions, refined_confusions={"q_proj": q, "o_proj": right})


def report(refined: bool = False) -> FitReport:
    return make_report(
        NAMES,
        dict.fromkeys(NAMES, 3),
        torch.ones(3),
        [PassReport(1.0, {"q_proj": 0.8})],
        solved(),
        Chosen({}, refined, {"law": 2.0}, {"closed form": 0.75, "refined": 0.7}, 0.7),
        0.5,
        {},
        2.0,
    )


def test_the_best_shrinkage_of_each_kind_is_chosen() -> None:
    made = report()
    assert "one adapter a token: closed form 0.7500, refined 0.7000" in str(made)
    assert made.shrinkage == {"q_proj": 0.01, "o_proj": 0.1}
    assert made.accuracy["sql"] == {"q_proj": pytest.approx(0.8), "o_proj": pytest.approx(0.5)}


def test_where_refined_gates_are_taken_they_are_judged() -> None:
    assert report(refined=True).accuracy["sql"] == {"q_proj": pytest.approx(0.8), "o_proj": 1.0}


def test_confusion_is_the_mean_over_sites_and_names_the_twins() -> None:
    made = report()
    assert made.confusion[0] == pytest.approx([(3 * 0.8 + 0.5) / 4, 0.5 / 4, 3 * 0.2 / 4])
    assert [(pair.name, pair.other) for pair in made.twins] == [("law", "sql"), ("sql", "law"), ("sql", "__base__")]
    assert "near twins: 'law' loses 22% of its tokens to 'sql': give both more texts" in str(made)


def test_a_class_without_tests_does_not_count() -> None:
    assert recall(torch.tensor([[3, 1], [0, 0]])) == pytest.approx(0.75)


def test_as_json_and_as_a_picture(tmp_path: Path) -> None:
    made = report()
    read = json.loads(json.dumps(made.to_dict()))
    assert read["temperature"] == 0.5
    assert read["seconds"] == 3.0
    assert read["twins"][0]["other"] == "sql"
    pytest.importorskip("matplotlib")
    made.plot(tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_the_general_texts_are_many_and_distinct() -> None:
    texts = general_texts()
    assert len(texts) == len(set(texts)) >= 100
