"""Each metric, with the faults of the paper's published scorer that it must not have."""

from __future__ import annotations

import sys
from decimal import Decimal

import pytest
from meteora_rs.errors import MeteoraError
from meteora_rs.evaluate.metrics import METRICS, Metric, make
from meteora_rs.evaluate.metrics.by_task import BY_TASK, COMPOSITES
from meteora_rs.evaluate.metrics.number import final_number

PACKAGES = {"bleu": "sacrebleu", "rouge_1": "rouge_score", "rouge_2": "rouge_score", "rouge_l": "rouge_score"}


def metric(name: str) -> Metric:
    """The metric, or the test is skipped where its package is missing."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return make([name])[name]


def score(name: str, pairs: list[tuple[str, str]]) -> float:
    """The score of (answer, reference) pairs."""
    made = metric(name)
    statistics = [made.statistics(answer, reference) for answer, reference in pairs]
    return made.score([sum(column) for column in zip(*statistics, strict=True)], len(pairs))


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_answer_is_wrong_and_counts(name: str) -> None:
    reference = "no 7 plums in the old garden"
    assert score(name, [("", reference)]) == 0
    assert score(name, [(" \n", reference)]) == 0
    whole = score(name, [(reference, reference)])
    assert whole == pytest.approx(1)
    with_empty = score(name, [(reference, reference), ("", reference)])
    # BLEU's brevity penalty: half of the words are missing, exp(1 - 2).
    assert with_empty == pytest.approx(0.3679 if name == "bleu" else 0.5, abs=1e-3)


@pytest.mark.parametrize(
    "name, answer, reference, right",
    [
        ("exact", " The Robin\n is last. ", "the robin is last.", True),
        ("exact", "the robin is last", "the robin is last.", False),
        ("exact", "incorrect", "correct", False),
        ("contains", "It is five, I think.", "Five", True),
        ("contains", "incorrect", "correct", False),
        ("contains", "15", "5", False),
        ("contains", "so: The  robin\nis last. Yes", "the robin is last.", True),
        ("contains", "a (b) c", "(b)", True),
        ("contains", "anything at all", "a.y", False),
        ("first_word", "No. Because of rain", "no, it is dry", True),
        ("first_word", " - yes", "Yes. It is", True),
        ("first_word", "Nothing is known", "No. It is not", False),
        ("first_word", "Well, yes", "Yes.", False),
        ("first_word", "...", "Yes.", False),
        ("number", "The answer is $1,200.", "so 2 * 600\n#### 1200", True),
        ("number", "3 and 4 make 7.0", "#### 7", True),
        ("number", "The answer is 5. Check: 2 + 3", "5", True),
        ("number", "the answer is none of 12", "12", True),
        ("number", "The answer is 7", "8", False),
        ("number", "seven", "7", False),
        ("number", "it falls to -5", "5", False),
        ("number", "10-5", "5", True),
    ],
)  # fmt: skip
def test_right_and_wrong(name: str, answer: str, reference: str, right: bool) -> None:
    assert score(name, [(answer, reference)]) == float(right)


def test_numbers() -> None:
    assert final_number("costs 1,234,567.50 today") == Decimal("1234567.5")
    assert final_number("The answer is: 3. Or rather, the answer is 4, not 5") == 4
    assert final_number("#### -12") == -12
    assert final_number("The answer is unclear: 2, 3") == 2
    assert final_number("none") is None


def test_bleu_is_the_corpus_bleu_of_all_hypotheses() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    pairs = [
        ("the cat sat on the mat today", "the cat sat on a mat today"),
        ("by then the rangers had the ball", "by that stage Rangers had dominated possession"),
        ("", "nothing was said about it at all"),
        ("a line\nand another one, it is", "a line and another one , it was"),
    ]
    expected = sacrebleu.corpus_bleu([a.replace("\n", " ") for a, _ in pairs], [[r for _, r in pairs]]).score
    assert score("bleu", pairs) == pytest.approx(expected / 100)
    assert score("bleu", pairs) != pytest.approx(score("bleu", pairs[:1]), abs=0.05)


def test_rouge_is_the_mean_over_items() -> None:
    assert score("rouge_1", [("a b c", "a c"), ("", "a")]) == pytest.approx(0.4)
    assert score("rouge_l", [("c a b", "a b c")]) == pytest.approx(2 / 3)
    assert score("rouge_2", [("c a b", "a b c")]) == pytest.approx(1 / 2)


def test_every_task_has_metrics_that_exist() -> None:
    assert len(BY_TASK) == 28
    assert {name for names in BY_TASK.values() for name in names} <= set(METRICS)
    for count, tasks in COMPOSITES.items():
        assert len(tasks) == count and set(tasks) <= set(BY_TASK)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeteoraError, match="no metric 'blue'; there are exact"):
        make(["exact", "blue"])
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MeteoraError, match=r"the package sacrebleu.*meteora-rs\[evaluate\]"):
        make(["bleu"])
