"""`generate()` in all its ways: rows follow their routes, and without an adapter nothing changes."""

from __future__ import annotations

from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, Route
from tiny import MODELS, adapter, equal, gate_rows, logits, prompt, tiny_model
from torch import Tensor

ROUTES: list[Route] = [Auto(), "math", Mix({"math": 0.5, "law": 0.5}), "__base__"]
NEW = 8


def attached(kind: str = "llama", **more: Any) -> Meteora:
    meteora = meteora_rs.attach(tiny_model(kind, **more), MeteoraConfig(max_adapters=4))
    for seed, name in enumerate(("math", "law")):
        source = adapter(meteora.model, 8 - 3 * seed, seed=seed, scale=0.3)
        meteora.load_adapter(source, name, gate=gate_rows(meteora, seed))
    return meteora


def padded(rows: int, length: int = 9) -> dict[str, Tensor]:
    """Prompts of unequal lengths, padded on the left."""
    ids, mask = prompt(rows, length), torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        ids[row, : 2 * row % 7], mask[row, : 2 * row % 7] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(meteora: Meteora, routes: Any, inputs: dict[str, Tensor], **how: Any) -> Tensor:
    torch.manual_seed(3)
    with meteora.routing(routes):
        out = meteora.model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **how})
    return out if isinstance(out, Tensor) else out.sequences


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "sampling": {"do_sample": True, "temperature": 2.0, "top_k": 20},
    "beams": {"num_beams": 3},
    "several": {"num_return_sequences": 2, "do_sample": True},
    "several beams": {"num_beams": 4, "num_return_sequences": 2},
    "chunked prefill": {"prefill_chunk_size": 4},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_row_follows_its_route(way: str, attention: str) -> None:
    """Row by row the tokens are those of the whole batch under that row's route alone."""
    meteora, inputs, how = attached(attn_implementation=attention), padded(4), WAYS[way]
    mixed = generate(meteora, ROUTES, inputs, **how)
    expand = how.get("num_return_sequences", 1)
    assert mixed.shape == (4 * expand, 9 + NEW)
    if how.get("do_sample"):  # the rows share one stream of random numbers
        assert equal(mixed, generate(meteora, ROUTES, inputs, **how))
        assert equal(generate(meteora, "math", inputs, **how), generate(meteora, ["math"] * 4, inputs, **how))
        return
    for row, route in enumerate(ROUTES):
        part = slice(row * expand, (row + 1) * expand)
        assert equal(mixed[part], generate(meteora, route, inputs, **how)[part])
    meteora.detach()
    stock = meteora_rs.attach(tiny_model(attn_implementation=attention))
    assert equal(mixed[3 * expand :], generate(stock, Auto(), inputs, **how)[3 * expand :])
    assert len({tuple(row.tolist()) for row in mixed[:, 9:]}) >= 4


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", ["greedy", "sampling", "beams", "static cache"])
def test_without_adapters_nothing_changes(kind: str, way: str) -> None:
    how = {"max_new_tokens": NEW, "do_sample": False, **WAYS[way]}
    model, inputs, outputs = tiny_model(kind), padded(3), []
    torch.manual_seed(3)
    outputs.append(model.generate(**inputs, **how))
    meteora = meteora_rs.attach(model)
    torch.manual_seed(3)
    outputs.append(model.generate(**inputs, **how))
    meteora.load_adapter(adapter(model), "math")
    outputs.append(generate(meteora, "__base__", inputs, **how))
    meteora.detach()
    torch.manual_seed(3)
    outputs.append(model.generate(**inputs, **how))
    assert all(equal(out, outputs[0]) for out in outputs)


def test_the_cache_changes_no_token() -> None:
    meteora, inputs = attached(), padded(4)
    expected = generate(meteora, ROUTES, inputs)
    for way in ("no cache", "static cache"):
        assert equal(generate(meteora, ROUTES, inputs, **WAYS[way]), expected)


@pytest.mark.filterwarnings("ignore:.*(create_block_mask|flex_attention)")
def test_flex_attention() -> None:
    meteora, inputs = attached(attn_implementation="flex_attention"), padded(4)
    with torch.compiler.set_stance("force_eager"):  # compiling its kernels takes a minute
        mixed = generate(meteora, ROUTES, inputs)
        for row, route in enumerate(ROUTES):
            assert equal(mixed[row], generate(meteora, route, inputs)[row])


@pytest.mark.parametrize("route", [Auto(), "math", Mix({"law": 2.0})])
@pytest.mark.parametrize("helper", ["assistant", "prompt lookup"])
def test_assisted_decoding_gives_the_tokens_of_greedy(route: Route, helper: str) -> None:
    meteora, inputs = attached(), {"input_ids": prompt(1, 12).repeat(1, 2)}
    how: dict[str, Any] = {"prompt_lookup_num_tokens": 3}
    if helper == "assistant":
        how = {"assistant_model": tiny_model(num_hidden_layers=1)}
    assert equal(generate(meteora, route, inputs, **how), generate(meteora, route, inputs))


def test_an_attached_assistant_keeps_its_own_routes() -> None:
    meteora, helper = attached(), attached()
    inputs = {"input_ids": prompt(1, 12)}
    with helper.routing("law"):
        actual = generate(meteora, "math", inputs, assistant_model=helper.model)
    assert equal(actual, generate(meteora, "math", inputs))


def test_a_request_keeps_its_adapters_from_its_first_token_to_its_last() -> None:
    """Without a block, too: `generate` holds the adapters that were live when it was called."""
    meteora, inputs = attached(), {"input_ids": prompt(2)}
    model = meteora.model
    expected = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    steps = []

    def meddle(_ids: Tensor, scores: Tensor) -> Tensor:
        steps.append(len(meteora.adapters()))
        if len(steps) == 2:
            meteora.unload_adapter("math")
            meteora.load_adapter(adapter(model, 8, seed=7), "other")
        if len(steps) == 4:
            meteora.reload_adapter("law", adapter(model, 8, seed=8))
        return scores

    actual = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, logits_processor=[meddle])
    assert equal(actual, expected) and len(steps) == NEW
    assert not equal(model.generate(**inputs, max_new_tokens=NEW, do_sample=False), expected)


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
def test_prefill_and_decode_are_one_computation() -> None:
    """The adapters' part of a token does not depend on how the tokens came: at once, or one by one."""
    meteora, ids = attached(), prompt(4, 10)
    with meteora.routing(ROUTES):
        whole = logits(meteora.model, ids)
        cache, parts = None, []
        for part in ids.split([3, 1, 4, 1, 1], dim=1):
            with torch.no_grad():
                out = meteora.model(part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


def test_embeddings_as_input() -> None:
    meteora, ids = attached(), prompt(2)
    embeds = meteora.model.get_input_embeddings()(ids).detach()
    with_ids = generate(meteora, ["math", "__base__"], {"input_ids": ids})[:, ids.shape[1] :]
    assert equal(generate(meteora, ["math", "__base__"], {"inputs_embeds": embeds}), with_ids)
    with pytest.raises(meteora_rs.errors.RouteError, match="3 routes for a batch of 2 rows"):
        generate(meteora, ["math"] * 3, {"inputs_embeds": embeds})
