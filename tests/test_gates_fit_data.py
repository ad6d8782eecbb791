"""Which tokens of which texts teach, and that pads never do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from meteora_rs.gates.fit.data import BREADTH, Batch, Example, Text, batches, check_texts, encode, make_examples


class Letters:
    """A tokenizer of letters, with 1 at the beginning and 2 at the end of a text."""

    eos_token_id = 2

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, Any]:
        ids = [ord(letter) for letter in text]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}


def examples(seed: int = 0, **options: int) -> list[Example]:
    data: dict[str, list[Text]] = {"a": ["hello there", "x", "hi"], "b": [("what is it?", "that")] * 4}
    given = {"tokens": 15, "read": 1000, "max_length": 12, "tests_per_class": 4, **options}
    return make_examples(data, Letters(), seed=seed, **given)


def pairs(count: int, prompt: str = "what is it?", response: str = "that", **options: int) -> list[Example]:
    given = {"tokens": 60, "read": 1000, "max_length": 50, "tests_per_class": 8, "seed": 0, **options}
    return make_examples({"a": [(prompt, response)] * count}, Letters(), **given)


def test_pairs_as_json_has_them_are_pairs() -> None:
    pair: Any = ["what?", "that"]
    check_texts("a", [pair, ("what?", "that"), "text"])
    for wrong in ((*pair, "more"), ("what?", None), ["what?", 3]):
        with pytest.raises(ValueError, match="pairs is needed"):
            check_texts("a", [wrong])  # type: ignore[list-item]


def test_pairs_become_prompt_response_and_end() -> None:
    assert encode("ab", Letters(), 9) == ([1, 97, 98], 0)
    assert encode(("ab", "c"), Letters(), 9) == ([1, 97, 98, 99, 2], 3)


def test_a_long_pair_keeps_its_response() -> None:
    assert encode(("abcdef", "gh"), Letters(), 6) == ([100, 101, 102, 103, 104, 2], 3)
    ids, response = encode(("abcdef", "ghijkl"), Letters(), 6)
    assert (len(ids), response) == (6, 3)
    assert encode("abcdef", Letters(), 4) == ([1, 97, 98, 99], 0)


def test_tokens_that_test_do_not_teach() -> None:
    made = examples()
    assert [example.label for example in made] == [0, 0, 0, 1, 1, 1, 1]
    for example in made:
        assert not set(example.teach) & set(example.test)
        assert len(example.teach) <= 5
        assert len(example.ids) <= 12
        assert all(0 <= place < len(example.ids) for place in example.teach + example.test)
    assert sum(len(example.test) for example in made if example.label == 1) == 4


def test_a_class_of_many_texts_holds_some_out() -> None:
    assert not any(example.held_out for example in pairs(7))
    assert [sum(example.held_out for example in pairs(count)) for count in (8, 16, 40, 200)] == [1, 2, 5, 16]
    for example in pairs(40):
        assert bool(example.test) == example.held_out != bool(example.teach)
    assert sum(len(example.test) for example in pairs(40)) == 10


def test_all_places_of_a_text_may_teach() -> None:
    made = [each for each in pairs(40, response="that was it", tokens=35 * 8) if not each.held_out]
    assert all(len(example.teach) == 8 for example in made)
    assert {place for example in made for place in example.teach} == set(range(len(made[0].ids)))


def test_no_more_texts_are_read_than_asked() -> None:
    length = len(pairs(1)[0].ids)
    made = pairs(40, read=5 * length)
    assert sum(not example.held_out for example in made) == 5
    assert sum(len(example.teach) for example in made) == 60
    assert sum(not example.held_out for example in pairs(40, read=1)) == 1


def test_more_is_read_of_the_base() -> None:
    some = {"tokens": 60, "read": 50, "max_length": 50, "tests_per_class": 8, "seed": 0}
    made = make_examples({"a": ["what is it?"] * 40, "__base__": ["what is it?"] * 40}, Letters(), **some)
    taught = [[len(each.teach) for each in made if each.label == label and not each.held_out] for label in (0, 1)]
    assert len(taught[1]) == BREADTH * len(taught[0]) and taught[1][0] == taught[0][0]


def test_the_same_seed_draws_the_same_tokens() -> None:
    assert examples() == examples()
    assert examples() != examples(seed=1)


def test_a_class_without_text_is_refused() -> None:
    with pytest.raises(ValueError, match="'b' has no text"):
        examples_of = {"a": ["hello"], "b": [""]}
        make_examples(examples_of, Letters(), tokens=1, read=9, max_length=9, tests_per_class=1, seed=0)


@pytest.mark.parametrize("batch_tokens", [1, 13, 30, 1000])
def test_batches_hold_every_token_once_and_no_pad(batch_tokens: int) -> None:
    made = examples()
    packed: list[Batch] = list(batches(made, batch_tokens))
    seen = []
    for batch in packed:
        assert batch.ids.numel() <= max([batch_tokens, *(len(example.ids) for example in made)])
        for places in (batch.teach, batch.test):
            assert batch.mask.flatten()[places].all()
        assert not batch.ids[batch.mask == 0].any()
        labels = batch.labels.repeat_interleave(batch.ids.shape[1])
        seen += list(zip(labels[batch.teach].tolist(), batch.ids.flatten()[batch.teach].tolist(), strict=True))
    wanted = [(example.label, example.ids[place]) for example in made for place in example.teach]
    assert sorted(seen) == sorted(wanted)
    assert torch.cat([batch.labels for batch in packed]).bincount().tolist() == [3, 4]
