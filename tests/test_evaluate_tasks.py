"""Reading tasks from a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from meteora_rs.errors import MeteoraError
from meteora_rs.evaluate import Item, read_tasks
from meteora_rs.evaluate.composite import references, split_texts
from meteora_rs.evaluate.metrics import make


def write_task(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    """A task's `test.jsonl`."""
    (folder / name).mkdir(parents=True)
    lines = [json.dumps({"prompt": p, "response": r}, ensure_ascii=False) for p, r in pairs]
    (folder / name / "test.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def test_all_tasks_or_some(tmp_path: Path) -> None:
    write_task(tmp_path, "winowhy", [("a\u2028?", "x"), ("b?", "y")])
    write_task(tmp_path, "mine", [("c?", "z")])
    (tmp_path / "meta.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    assert [task.name for task in read_tasks(tmp_path)] == ["mine", "winowhy"]
    (task,) = read_tasks(tmp_path, ["winowhy"], limit=1)
    assert task.items == (Item("a\u2028?", "x"),)
    assert task.metrics_of("winowhy") == ("exact",)
    assert task.parts == ()
    (task,) = read_tasks(tmp_path, ["mine"], metrics={"mine": ["number", "exact"]})
    assert task.metrics_of("mine") == ("number", "exact")


def test_composites_are_known_by_their_responses(tmp_path: Path) -> None:
    write_task(tmp_path, "three", [("a?", "x@@@@\ny@@@@\nz")])
    write_task(tmp_path, "two", [("a?", "x@@@@\ny")])
    three, two = read_tasks(tmp_path)
    assert three.parts == ("logical_deduction", "question_selection", "strategyqa")
    assert three.metrics_of("logical_deduction")[0] == "contains"
    assert two.parts == ("1", "2")
    assert two.metrics_of("1") == ("exact",)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": "a"}', "line 2.*response"),
        ("no json", "line 2"),
        ('["a", "b"]', "line 2"),
        ('{"prompt": "", "response": "x"}', "line 2.*not empty"),
        ('{"prompt": "a", "response": 3}', "line 2.*texts"),
        ('{"prompt": "a", "response": " "}', "line 2.*nothing could be right"),
        ('{"prompt": "a", "response": "x@@@@\\n"}', "line 2.*nothing could be right"),
        ('{"prompt": "a", "response": "x@@@@\\ny"}', "items with 1 and with 2 answers"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    write_task(tmp_path, "mine", [("a?", "x")])
    path = tmp_path / "mine" / "test.jsonl"
    path.write_text(path.read_text().strip() + "\n" + line + "\n")
    with pytest.raises(MeteoraError, match=message) as error:
        read_tasks(tmp_path)
    assert str(path) in str(error.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MeteoraError, match="no task in"):
        read_tasks(tmp_path)
    write_task(tmp_path, "mine", [("a?", "x")])
    with pytest.raises(MeteoraError, match=r"no task 'other' in .*; there are mine"):
        read_tasks(tmp_path, ["other"])
    with pytest.raises(MeteoraError, match="no task 'other'"):
        read_tasks(tmp_path, metrics={"other": ["exact"]})
    with pytest.raises(MeteoraError, match="task 'mine': no metric 'blue'"):
        read_tasks(tmp_path, metrics={"mine": ["blue"]})
    (tmp_path / "mine" / "test.jsonl").write_text("\n")
    with pytest.raises(MeteoraError, match="has no items"):
        read_tasks(tmp_path)


def test_the_papers_tasks_as_data() -> None:
    if "METEORA_TASKS" not in os.environ:
        pytest.skip("METEORA_TASKS, a folder of the paper's tasks, is not set")
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    tasks = read_tasks(os.environ["METEORA_TASKS"], limit=20)
    assert {len(task.parts) for task in tasks} == {0, 3, 5, 10}
    for task in tasks:
        for item in task.items:
            wanted = references(item.response)
            answer = "\n".join(f"{number + 1}. {text}" for number, text in enumerate(wanted))
            if task.parts:  # "1. …" inside a reference must not lead the split astray
                assert split_texts(answer, len(task.parts)) == wanted
            for part, reference in zip(task.parts or (task.name,), wanted, strict=True):
                for metric in make(task.metrics_of(part)).values():
                    if metric.is_accuracy:
                        assert metric.score(metric.statistics(reference, reference), 1) == 1, (part, reference)
