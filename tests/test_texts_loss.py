"""The loss on responses, against the model's own logits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import meteora_rs
import pytest
import torch
from meteora_rs.texts.loss import evaluating, response_losses, token_losses
from tiny import adapter
from tiny_numbers import VOCABULARY, attached
from tiny_text import save_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

PAIRS = [("how many plums do I have ?", "two"), ("tell me of Paris .", "law says yes"), ("tell me", "no")]


@pytest.mark.parametrize("batch_tokens", [1, 16, 1000])
def test_losses_are_those_of_the_model(tmp_path: Path, batch_tokens: int) -> None:
    folder = save_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    meteora = meteora_rs.attach(AutoModelForCausalLM.from_pretrained(folder))
    meteora.load_adapter(adapter(meteora.model, 4), "law")
    expected = []
    with meteora.routing("law"), torch.no_grad():
        for prompt, response in PAIRS:
            ids = torch.tensor([[*tokenizer(f"{prompt} {response}")["input_ids"], tokenizer.eos_token_id]])
            count = len(tokenizer(response)["input_ids"]) + 1
            logits = meteora.model(ids).logits[0, -count - 1 : -1]
            expected.append((float(torch.nn.functional.cross_entropy(logits, ids[0, -count:]) * count), count))
    found = response_losses(meteora, tokenizer, PAIRS, "law", batch_tokens=batch_tokens)
    assert [count for _, count in found] == [count for _, count in expected]
    assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-4)
    assert response_losses(meteora, tokenizer, [], "law") == []


def test_token_losses_count_the_last_tokens_alone_whatever_the_batch() -> None:
    meteora = attached()
    draw = torch.Generator().manual_seed(0)
    encoded = [
        (torch.randint(VOCABULARY, (length,), generator=draw).tolist(), count)
        for length, count in ((9, 5), (30, 1), (256, 255), (12, 11), (5, 4))
    ]
    found = token_losses(meteora, encoded, "first", batch_tokens=300)
    for (ids, count), (nats, counted) in zip(encoded, found, strict=True):
        with torch.no_grad(), meteora.routing("first"):
            chances = meteora.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        own = [-chances[place - 1, ids[place]].item() for place in range(len(ids) - count, len(ids))]
        assert counted == count
        assert nats == pytest.approx(sum(own), rel=1e-4)


def test_the_mode_is_that_of_before_when_the_last_of_several_threads_is_done() -> None:
    model, both = nn.Dropout(), Barrier(2, timeout=60)

    def first() -> None:
        with evaluating(model):
            both.wait()  # the second comes before the first is done
            both.wait()
        both.wait()

    def second() -> bool:
        both.wait()
        with evaluating(model):
            both.wait()
            both.wait()
            return model.training

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.submit(first), threads.submit(second)
        one.result()
        assert not other.result()
    assert model.training
