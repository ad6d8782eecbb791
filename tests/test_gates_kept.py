"""What a fit leaves for adapters that come later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from meteora_rs import BASE
from meteora_rs.errors import AdapterFormatError
from meteora_rs.files.tensor_file import save_tensors
from meteora_rs.gates.kept import KeptText, KeptTexts
from safetensors import safe_open

GROUPS = ["q_proj", "o_proj"]


def kept() -> KeptTexts:
    texts = [KeptText(0, (1, 2, 3), 0), KeptText(1, (4, 5), 1), KeptText(1, (6, 7, 8), 3)]
    return KeptTexts(["math", BASE], 0.5, {"q_proj": 0.01, "o_proj": 0.1}, texts)


def test_a_class_more_and_one_in_anothers_place() -> None:
    more = kept().with_class("law", [KeptText(0, (0, 1, 2, 3), 2)])
    assert more.names == ["math", BASE, "law"]
    assert more.texts == [*kept().texts, KeptText(2, (0, 1, 2, 3), 2)]
    other = kept().with_class("math", [KeptText(9, (0, 1, 2, 3), 2)])
    assert other.names == ["math", BASE]
    assert other.texts == [*kept().texts[1:], KeptText(0, (0, 1, 2, 3), 2)]


def test_a_file_keeps_all_of_it(tmp_path: Path) -> None:
    kept().save(tmp_path / "kept")
    assert KeptTexts.load(tmp_path / "kept", GROUPS, 9) == kept()


@pytest.mark.parametrize(
    ("groups", "vocabulary", "message"),
    [(GROUPS, 8, "a token that the model has not"), ([*GROUPS, "up_proj"], 9, "out of range")],
)
def test_another_models_are_refused(tmp_path: Path, groups: list[str], vocabulary: int, message: str) -> None:
    kept().save(tmp_path / "kept")
    with pytest.raises(AdapterFormatError, match=message):
        KeptTexts.load(tmp_path / "kept", groups, vocabulary)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lengths", [3, 2, 4], "other than its lengths"),
        ("lengths", [3, 2], "other than its lengths"),
        ("lengths", [4, 1, 3], "a text of 1 tokens"),
        ("lengths", [9, -4, 3], "other than its lengths"),
        ("ids", [1.0] * 8, "not a list of int64"),
        ("labels", [[0, 1, 1]], "not a list of int64"),
        ("lengths", [3.0, 2.0, float("nan")], "not a list of int64"),
        ("labels", [0, 1, 2], "not one text at least"),
        ("labels", [1, 1, 1], "not one text at least"),
        ("labels", [0, 1], "longer"),
        ("responses", [0, 3, 3], "response 3"),
        ("responses", [-1, 0, 0], "response -1"),
        ("ids", [1, 2, 3, 4, 5, 6, 7, -1], "a token that the model has not"),
        ("about", {"temperature": 0.0}, "out of range"),
        ("about", {"temperature": float("nan")}, "out of range"),
        ("about", {"shrinkage": {"q_proj": 0.0, "o_proj": 1.0}}, "out of range"),
        ("about", {"names": None}, "TypeError"),
        ("about", {"shrinkage": {"q_proj": 0.1, "o_proj": float("nan")}}, "out of range"),
        ("about", {"temperature": float("inf")}, "out of range"),
        ("about", {"temperature": 10**400}, "OverflowError"),
        ("about", {"names": ["math", "math"]}, "a name is there twice"),
        ("nested", "[" * 200000, "RecursionError"),
        ("missing", "labels", "labels"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name(tmp_path: Path, key: str, value: object, message: str) -> None:
    kept().save(tmp_path / "good")
    with safe_open(tmp_path / "good", framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if key == "about":
        assert isinstance(value, dict)
        metadata["statistics"] = json.dumps({**json.loads(metadata["statistics"]), **value})
    elif key == "nested":
        metadata["statistics"] = str(value)
    elif key == "missing":
        del tensors[str(value)]
    else:
        tensors[key] = torch.tensor(value)
    save_tensors(tensors, tmp_path / "bad", metadata)
    with pytest.raises(AdapterFormatError, match=message) as raised:
        KeptTexts.load(tmp_path / "bad", GROUPS, 9)
    assert str(tmp_path / "bad") in str(raised.value)


def test_another_versions_is_left_out_with_a_warning(tmp_path: Path) -> None:
    save_tensors({"means": torch.zeros(1)}, tmp_path / "old", {"statistics_format": "1"})
    with pytest.warns(UserWarning, match="another fit_gates"):
        assert KeptTexts.load(tmp_path / "old", GROUPS, 9) is None


def test_a_class_leaves_with_its_texts() -> None:
    left = kept().without_class("math")
    assert left.names == [BASE]
    assert left.texts == [KeptText(0, (4, 5), 1), KeptText(0, (6, 7, 8), 3)]
    assert kept().without_class("nobody") == kept()


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(AdapterFormatError, match="bad"):
        KeptTexts.load(tmp_path / "bad", GROUPS, 9)
