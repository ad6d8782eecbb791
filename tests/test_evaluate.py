"""Evaluations from end to end, on a tiny model that reads and writes words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import BASE, Auto, Meteora, MeteoraConfig, Mix
from meteora_rs.errors import AdapterNotFoundError, MeteoraError
from meteora_rs.evaluate import OWN, Chosen, Gates, Item, Report, Task, evaluate
from meteora_rs.evaluate.generate import answer_batch
from meteora_rs.evaluate.metrics import make
from meteora_rs.evaluate.scoring import build
from tiny import adapter, gate_rows
from tiny_text import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ("how many plums do I have ?", "tell me of Paris .", "the law says", "how many figs ?", "yes or no ?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def attached(folder: Path) -> Meteora:
    """Two adapters with gates of their own."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=4, pool_rank=64))
    for seed, name in enumerate(("math", "law")):
        meteora.load_adapter(adapter(model, 4, seed=seed), name, gate=gate_rows(meteora, seed))
    return meteora


def task(meteora: Meteora, tokenizer: Any, name: str, route: meteora_rs.Route, count: int = 3) -> Task:
    """A task that `route` answers rightly, word for word."""
    answers = answer_batch(meteora, tokenizer, PROMPTS, route, 4)
    items = [Item(prompt, answer.text) for prompt, answer in zip(PROMPTS, answers, strict=True) if answer.text]
    assert len(items) >= count
    return Task(name, tuple(items[:count]))


def run(meteora: Meteora, tokenizer: Any, tasks: list[Task], folder: Path, **more: Any) -> Report:
    return evaluate(
        meteora, tasks, folder, tokenizer=tokenizer, **{"max_new_tokens": 4, "progress": False, "resamples": 50, **more}
    )


def test_each_variant_is_what_it_says(attached: Meteora, tokenizer: Any, tmp_path: Path) -> None:
    tasks = [task(attached, tokenizer, name, name) for name in ("math", "law")]
    general = task(attached, tokenizer, "general", BASE)
    report = run(attached, tokenizer, [*tasks, general], tmp_path, loss=True)
    assert report.variants == ("base", "own", "auto") and report.reference == "own"
    math, law, other = report.tasks
    for each in (math, law):
        assert each.scores["own"]["exact"].value == 1
        assert each.scores["base"]["exact"].value < 1
        assert each.differences["base"].value == each.scores["base"]["exact"].value - 1
        assert set(each.served) == {"auto"}
        assert sum(each.served["auto"].values()) == pytest.approx(1, abs=1e-3)
        assert set(each.losses) == {"base", "own", "auto"}
    assert other.scores["base"]["exact"].value == 1
    assert "own" not in other.scores and other.differences == {}
    assert report.averaged == 2
    assert report.means["own"].value == 1
    assert report.ratios["own"].value == report.ratios["own"].low == 1
    mean = (math.scores["auto"]["exact"].value + law.scores["auto"]["exact"].value) / 2
    assert report.means["auto"].value == report.ratios["auto"].value == mean
    table = str(report)
    assert "100.0 [100.0, 100.0]" in table and "ratio to own" in table


def test_gates_by_another_rule(
    attached: Meteora, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task(attached, tokenizer, "math", "math")]
    before, kinds = attached.gate_rows(), [(record.name, record.gate) for record in attached.adapters()]
    seen: list[tuple[int | None, set[str]]] = []

    def answered(*given: Any, **more: Any) -> Any:
        seen.append((more["top_k"], {record.gate for record in attached.adapters()}))
        return answer_batch(*given, **more)

    monkeypatch.setattr("meteora_rs.evaluate.run.answer_batch", answered)
    variants = {"k=1": Gates(top_k=1), "k=2": Gates(top_k=2), "arrow": Gates(top_k=1, arrow=True)}
    report = run(attached, tokenizer, tasks, tmp_path, variants=variants, loss=True)
    assert seen == [(1, {"tensors"}), (2, {"tensors"}), (1, {"arrow"})]
    losses = report.tasks[0].losses
    assert len({losses[name].value for name in variants}) == 3
    fixed = run(attached, tokenizer, tasks, tmp_path / "mix", variants={"both": Mix({"math": 1.0})}, loss=True)
    assert losses["k=1"].value != fixed.tasks[0].losses["both"].value
    assert [(record.name, record.gate) for record in attached.adapters()] == kinds
    for name, rows in attached.gate_rows().items():
        assert all(torch.equal(row, before[name][path][0]) for path, (row, _) in rows.items())
    with pytest.raises(ValueError, match="top_k"):
        run(attached, tokenizer, tasks, tmp_path, variants={"k=0": Gates(top_k=0)})


def test_a_route_chosen_for_each_prompt(attached: Meteora, tokenizer: Any, tmp_path: Path) -> None:
    tasks = [task(attached, tokenizer, "math", "math")]
    first, *others = (item.prompt for item in tasks[0].items)
    variants = {"own": OWN, "chosen": Chosen({first: BASE, **dict.fromkeys(others, "math")}), "base": BASE}
    report = run(attached, tokenizer, tasks, tmp_path, variants=variants, loss=True)
    own, chosen, base = (report.tasks[0].losses[name].value for name in variants)
    assert min(own, base) < chosen < max(own, base)
    lines = {name: (tmp_path / f"answers/{name}.jsonl").read_text().splitlines()[1:] for name in variants}
    assert set(lines["chosen"]) <= {*lines["own"], *lines["base"]}  # the same routes' answers are not made again
    ratio = report.tasks[0].ratios["chosen"]
    assert ratio.value == report.tasks[0].scores["chosen"]["exact"].value and ratio.low <= ratio.value <= ratio.high
    with pytest.raises(MeteoraError, match="no route was chosen for the prompt"):
        run(attached, tokenizer, tasks, tmp_path, variants={"chosen": Chosen({})})


def test_batches_do_not_change_scores_or_losses(attached: Meteora, tokenizer: Any, tmp_path: Path) -> None:
    tasks = [task(attached, tokenizer, "math", "math")]
    one = run(attached, tokenizer, tasks, tmp_path / "one", batch_tokens=1, loss=True).tasks[0]
    all_ = run(attached, tokenizer, tasks, tmp_path / "all", loss=True).tasks[0]
    assert one.scores == all_.scores
    for name, loss in one.losses.items():
        assert loss.value == pytest.approx(all_.losses[name].value, rel=1e-4)


def test_who_served_agrees_with_the_trace(attached: Meteora, tokenizer: Any) -> None:
    answers = answer_batch(attached, tokenizer, PROMPTS, Auto(), 4)
    inputs = tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    length = inputs["input_ids"].shape[1]
    with attached.trace() as trace:
        attached.model.generate(**inputs, max_new_tokens=4, do_sample=False)  # type: ignore[operator]
    for row, answer in enumerate(answers):
        weights = trace.token_weights(row)[length - 1 :][: answer.tokens].mean(axis=(0, 1))
        for name, weight in zip(trace.adapters, weights.tolist(), strict=True):
            assert answer.shares[name] == pytest.approx(weight, abs=1e-3)
        assert sum(count for _, count in answer.served) == len(answer.text)
        leaders = [name for name, _ in answer.served]
        assert set(leaders) <= set(trace.leaders(row))
    assert answer_batch(attached, tokenizer, PROMPTS[:1], "math", 4)[0].served == []


def test_gates_with_nothing_to_choose(folder: Path, tokenizer: Any) -> None:
    meteora = meteora_rs.attach(AutoModelForCausalLM.from_pretrained(folder))
    (auto,) = answer_batch(meteora, tokenizer, PROMPTS[:1], Auto(), 4)
    (base,) = answer_batch(meteora, tokenizer, PROMPTS[:1], BASE, 4)
    assert auto.text == base.text
    assert auto.shares == {BASE: 1.0}


def test_answers_are_not_made_again(
    attached: Meteora, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task(attached, tokenizer, name, name) for name in ("math", "law")]
    part = [Task("math", tasks[0].items[:2])]
    run(attached, tokenizer, part, tmp_path)
    file = tmp_path / "answers" / "own.jsonl"
    assert len(file.read_text().splitlines()) == 1 + 2
    with file.open("a") as end:
        end.write('{"key": "cut sh')  # a crash in the middle of a line
    report = run(attached, tokenizer, tasks, tmp_path, loss=True)
    assert report.tasks[0].items == 3
    whole = file.read_text()
    assert "cut sh" not in whole

    asked: list[object] = []
    monkeypatch.setattr("meteora_rs.evaluate.run.answer_batch", lambda *given, **more: asked.append(given))
    again = run(attached, tokenizer, tasks, tmp_path, loss=True)
    assert not asked and again == report
    assert file.read_text() == whole


@pytest.mark.parametrize(
    "change, stale",
    [
        ("gates", {"auto"}),
        ("weights", {"auto", "own", "law"}),
        ("model", {"auto", "own", "law", "base"}),
    ],
)
def test_answers_of_another_origin_are_refused(
    attached: Meteora, tokenizer: Any, tmp_path: Path, change: str, stale: set[str]
) -> None:
    variants = {"base": BASE, "own": OWN, "auto": Auto(), "law": "law", "math": Mix({"math": 1.0})}
    tasks = [task(attached, tokenizer, "math", "math", 1)]
    run(attached, tokenizer, tasks, tmp_path, variants=variants)
    if change == "gates":
        attached.set_gates({"law": gate_rows(attached, 7)}, kind="tensors")
    elif change == "weights":
        attached.reload_adapter("law", adapter(attached.model, 4, seed=9))
    else:
        next(attached.model.parameters()).data[0, 0] += 1
    for name, variant in variants.items():
        if name in stale:
            with pytest.raises(MeteoraError, match=rf"{name}\.jsonl holds answers of another model"):
                run(attached, tokenizer, tasks, tmp_path, variants={name: variant})
        elif change != "model":
            run(attached, tokenizer, tasks, tmp_path, variants={name: variant})


def test_another_length_is_another_answer(attached: Meteora, tokenizer: Any, tmp_path: Path) -> None:
    tasks = [task(attached, tokenizer, "math", "math")]
    run(attached, tokenizer, tasks, tmp_path, variants={"own": OWN})
    run(attached, tokenizer, tasks, tmp_path, variants={"own": OWN}, task_max_new_tokens={"math": 2})
    lines = [json.loads(line) for line in (tmp_path / "answers/own.jsonl").read_text().splitlines()[1:]]
    assert len(lines) == 6
    assert max(line["tokens"] for line in lines[3:]) <= 2


def test_what_can_not_be_evaluated(attached: Meteora, tokenizer: Any, tmp_path: Path) -> None:
    tasks = [Task("sql", (Item("a", "b"),))]
    with pytest.raises(MeteoraError, match="at least one task"):
        run(attached, tokenizer, [], tmp_path)
    with pytest.raises(MeteoraError, match="variant 'own' answers no task"):
        run(attached, tokenizer, tasks, tmp_path)
    with pytest.raises(AdapterNotFoundError, match="sql"):
        run(attached, tokenizer, tasks, tmp_path, variants={"sql": "sql"})
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers/base.jsonl").write_text("[1]\n[2]\n")
    with pytest.raises(MeteoraError, match="no file of answers"):
        run(attached, tokenizer, tasks, tmp_path, variants={"base": BASE})
    tokenizer.pad_token = None
    with pytest.raises(MeteoraError, match="pad token"):
        run(attached, tokenizer, tasks, tmp_path, variants={"base": BASE})


class Page(HTMLParser):
    """Whether all tags are closed, and what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass


def test_the_files(attached: Meteora, tokenizer: Any, tmp_path: Path) -> None:
    tasks = [task(attached, tokenizer, "math", "math"), task(attached, tokenizer, "<b>bad", BASE)]
    report = run(attached, tokenizer, tasks, tmp_path, variants={"base": BASE, "auto:math": Auto(only=["math"])})
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["tasks"][0]["scores"]["base"]["exact"]["value"] == report.tasks[0].scores["base"]["exact"].value
    assert data["means"]["base"]["value"] == report.means["base"].value
    text = (tmp_path / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open and not page.loads
    assert "<b>bad" not in text and "&lt;b&gt;bad" in text
    assert text.count("<svg") == 2  # bars, and who served what
    assert not re.search(r"\bnan\b", text)


def test_a_composite_answer_may_not_end_early(
    attached: Meteora, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MeteoraError, match="no line break"):
        answer_batch(attached, tokenizer, PROMPTS[:1], "math", 4, questions=2)
    monkeypatch.setattr("meteora_rs.evaluate.generate._line_break", lambda tokenizer: 9)
    (item, *_) = task(attached, tokenizer, "math", "math").items
    end = tokenizer(item.response)["input_ids"][0]  # a token that was said ends an answer now
    attached.model.generation_config.eos_token_id = end  # type: ignore[union-attr]
    (ended,) = answer_batch(attached, tokenizer, [item.prompt], "math", 4)
    (whole,) = answer_batch(attached, tokenizer, [item.prompt], "math", 4, questions=2)
    assert ended.tokens < whole.tokens == 4
    assert whole.first_end == len(ended.text) and ended.first_end is None
    items = (Item(item.prompt, "two@@@@\nthree"),)
    for complete, tokens in ((False, ended.tokens), (True, 4)):
        tasks = [Task("both", items, ("1", "2"), ("exact",))]
        run(attached, tokenizer, tasks, tmp_path, variants={"math": "math"}, complete=complete, max_new_tokens=2)
        lines = (tmp_path / "answers/math.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["tokens"] == tokens


def test_composite_answers_are_split_and_traced(tmp_path: Path) -> None:
    items = (Item("a", "red@@@@\nblue@@@@\nYes. It is"), Item("b", "green@@@@\nwhite@@@@\nNo. It is not"))
    task = Task("composite_3", items, ("logical_deduction", "question_selection", "strategyqa"))
    served = [("math", 7), ("law", 9), ("__base__", 6)]
    records = [
        {
            "text": "1. red\n2. black\n3. yes",
            "tokens": 9,
            "shares": {"math": 0.5, "law": 0.5},
            "served": served,
            "first_end": 6,
        },
        {"text": "1. Green\n3. it is", "tokens": 6, "shares": {"math": 1.0}, "served": [("math", 17)]},
    ]
    plain = [{**record, "text": "", "served": []} for record in records]
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    metrics = make(name for part in task.parts for name in task.metrics_of(part))
    answers = {("composite_3", "auto"): records, ("composite_3", "base"): plain}
    report = build([task], answers, metrics, "base", resamples=20, seed=0)
    (result,) = report.tasks
    assert result.metrics == ("right", "attempted", "right_before_end", "attempted_before_end")
    assert result.scores["auto"]["attempted_before_end"].value == 1.5
    assert result.scores["auto"]["right_before_end"].value == 1.0
    assert result.scores["auto"]["attempted"].value == 2.5
    assert result.scores["auto"]["right"].value == 1.0 + 0.0 + 0.5
    assert result.scores["base"]["right"].value == result.scores["base"]["attempted"].value == 0
    assert result.differences["auto"].value == 1.5
    parts = result.parts["auto"]
    assert [part.attempted for part in parts.values()] == [1.0, 0.5, 1.0]
    assert parts["question_selection"].served == {"law": 1.0}
    assert set(parts["strategyqa"].served) == {"__base__", "math"}
    assert len(result.along["auto"]) == 20
    assert result.along["auto"][0] == {"math": 1.0}
    assert set(result.along["auto"][-1]) == {"math", "__base__"}
    assert report.averaged == 0 and report.means == {}
    report.write(tmp_path)
    page = Page()
    page.feed((tmp_path / "report.html").read_text())
    assert not page.open
    assert "composite_3" in str(report) and "1.50" in str(report)
