"""Which adapters a row gets: by itself, by name, by weights, in batches, contexts, threads and tasks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import meteora_rs
import numpy as np
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, Route
from meteora_rs.errors import AdapterNotFoundError, RouteError
from routed_reference import reference_model_output, relative_error
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

ROUTES: list[Route] = [
    Auto(), "math", Mix({"math": 0.7, "law": 0.4}), "__base__", Auto(only=["law", "sql"]), "sql",
]  # fmt: skip


def routed(meteora: Meteora, routes: Any, ids: Tensor) -> Tensor:
    with meteora.routing(routes):
        return logits(meteora.model, ids)


@pytest.mark.parametrize(
    ("kind", "top_k", "gates"),
    [
        ("llama", 2, "arrow"), ("llama", 1, "equal"), ("llama", 2, "unequal"), ("qwen2", 2, "equal"),
        ("mistral", 1, "arrow"),
    ],
)  # fmt: skip
def test_every_route_is_what_the_specification_says(kind: str, top_k: int, gates: str) -> None:
    model = tiny_model(kind)
    base = copy.deepcopy(model)
    meteora = meteora_rs.attach(model, MeteoraConfig(top_k=top_k, temperature=0.5, max_adapters=4))
    for seed, (name, rank) in enumerate({"math": 4, "law": 8, "sql": 3}.items()):
        gate = "arrow" if gates == "arrow" else gate_rows(meteora, seed, equal=gates == "equal")
        meteora.load_adapter(adapter(model, rank, seed=seed, scale=0.15), name, gate=gate)
    ids = prompt(len(ROUTES))
    expected = reference_model_output(base, meteora, ROUTES, ids)
    assert relative_error(routed(meteora, ROUTES, ids), expected) < 2e-5
    everyone = reference_model_output(base, meteora, Auto(), ids)
    assert relative_error(logits(model, ids), everyone) < 2e-5


def test_each_row_is_what_it_is_in_a_batch_of_its_route(loaded: Meteora) -> None:
    ids = prompt(len(ROUTES))
    mixed = routed(loaded, ROUTES, ids)
    for row, route in enumerate(ROUTES):
        assert equal(mixed[row], routed(loaded, route, ids)[row])
    assert equal(mixed[3], logits(tiny_model(), ids)[3])
    assert len({tuple(row[-1].tolist()) for row in mixed}) == len(ROUTES)


def test_the_default_is_auto_and_without_adapters_the_base(meteora: Meteora, model: PreTrainedModel) -> None:
    ids, base = prompt(), logits(tiny_model(), prompt())
    for route in (Auto(), "__base__"):
        assert equal(routed(meteora, route, ids), base)
    meteora.load_adapter(adapter(model), "math", gate="none")
    assert equal(logits(model, ids), base), "an adapter without a gate is used by name only"
    assert not equal(routed(meteora, "math", ids), base)
    meteora.load_adapter(adapter(model, seed=1), "law")
    assert equal(logits(model, ids), routed(meteora, Auto(), ids))
    assert equal(logits(model, ids), routed(meteora, "law", ids)), "one candidate has weight 1"


def test_a_mix_adds_up(loaded: Meteora) -> None:
    ids = prompt()
    assert equal(routed(loaded, Mix({"math": 1.0}), ids), routed(loaded, "math", ids))
    assert equal(routed(loaded, Mix({"math": 1, "law": 0.0}), ids), routed(loaded, "math", ids))
    assert equal(routed(loaded, Mix({"math": 0.0}), ids), routed(loaded, "__base__", ids))
    one, other = Mix({"math": 0.3, "law": 0.7}), Mix({"law": 0.7, "math": 0.3})
    assert one == other and hash(one) == hash(other)
    assert equal(routed(loaded, one, ids), routed(loaded, other, ids))


@pytest.mark.parametrize("route", [Auto(), Auto(only=["math"]), Mix({"math": 0.5, "law": np.float32(0.25)})])
def test_routes_are_values(route: Route) -> None:
    for twin in (copy.deepcopy(route), pickle.loads(pickle.dumps(route))):
        assert twin == route and hash(twin) == hash(route)


def test_a_restriction_holds_whatever_the_gates_say(meteora: Meteora, model: PreTrainedModel) -> None:
    loud = {site.path: (torch.zeros(site.in_features), 1e30) for site in meteora.sites}
    quiet = {site.path: (torch.zeros(site.in_features), -1e30) for site in meteora.sites}
    meteora.load_adapter(adapter(model, seed=1), "loud", gate=loud)
    meteora.load_adapter(adapter(model, seed=2), "quiet", gate=quiet)
    ids = prompt()
    assert equal(routed(meteora, Auto(only=["quiet"]), ids), routed(meteora, "quiet", ids))
    assert equal(routed(meteora, Auto(), ids), routed(meteora, "loud", ids))


def test_two_models_have_routes_of_their_own(loaded: Meteora) -> None:
    other = meteora_rs.attach(tiny_model(seed=9))
    before = logits(other.model, prompt())
    with loaded.routing("math"):
        assert equal(logits(other.model, prompt()), before)
        with pytest.raises(AdapterNotFoundError):
            other.routing("math").__enter__()


def test_rows_that_do_not_fit_the_batch(loaded: Meteora) -> None:
    with loaded.routing(["math", "law"]):
        with pytest.raises(RouteError, match="2 routes for a batch of 3 rows"):
            logits(loaded.model, prompt(3))
        with pytest.raises(RouteError, match="2 routes for a batch of 1 rows"):
            loaded.model.generate(prompt(1), max_new_tokens=1)
        with pytest.raises(RouteError, match="2 routes for a batch of 4 rows"):
            logits(loaded.model, prompt(4))


def bad_routes() -> list[tuple[Any, type[Exception], str]]:
    nan, inf = float("nan"), float("inf")
    return [
        (lambda: "nobody", AdapterNotFoundError, "no adapter named \"nobody\"; loaded: law, math, sql"),
        (lambda: ["math", "nobody"], AdapterNotFoundError, "nobody"),
        (lambda: "", AdapterNotFoundError, "no adapter named"),
        (lambda: Auto(only=["nobody"]), AdapterNotFoundError, "nobody"),
        (lambda: Mix({"nobody": 1.0}), AdapterNotFoundError, "nobody"),
        (lambda: [], RouteError, "no routes"),
        (lambda: None, RouteError, "a route is"),
        (lambda: [None], RouteError, "a route is"),
        (lambda: 3, RouteError, "a route is"),
        (lambda: {"math": 1.0}, RouteError, "a route is"),
        (lambda: Auto(only=[]), RouteError, "only is empty"),
        (lambda: Auto(only="math"), RouteError, "list of names"),
        (lambda: Auto(only=["math", 3]), RouteError, "name"),  # type: ignore[list-item]
        (lambda: Auto(only=3), RouteError, "list of names, not 3"),  # type: ignore[arg-type]
        (lambda: Auto(only=iter(["math"])), RouteError, "list of names, not <"),  # type: ignore[arg-type]
        (lambda: Mix({}), RouteError, "at least one"),
        (lambda: Mix(["math"]), RouteError, r"by name.*, not \['math'\]"),  # type: ignore[arg-type]
        (lambda: Mix("math"), RouteError, "by name.*, not 'math'"),  # type: ignore[arg-type]
        (lambda: Mix(None), RouteError, "by name.*, not None"),  # type: ignore[arg-type]
        (lambda: Mix({3: 1.0}), RouteError, "name"),  # type: ignore[dict-item]
        (lambda: Mix({"math": -0.1}), RouteError, "not negative"),
        (lambda: Mix({"math": nan}), RouteError, "finite"),
        (lambda: Mix({"math": inf}), RouteError, "finite"),
        (lambda: Mix({"math": 1e39}), RouteError, "finite"),
        (lambda: Mix({"math": 10**400}), RouteError, "finite"),
        (lambda: Mix({"math": "1"}), RouteError, "number"),  # type: ignore[dict-item]
        (lambda: Mix({"math": True}), RouteError, "number"),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(len(bad_routes())))
def test_bad_routes(loaded: Meteora, index: int) -> None:
    make, error, message = bad_routes()[index]
    with pytest.raises(error, match=message), loaded.routing(make()):
        pass
    assert loaded._registry.readers() <= 1


def test_only_may_not_name_an_adapter_without_a_gate(loaded: Meteora) -> None:
    loaded.load_adapter(adapter(loaded.model, seed=7), "named", gate="none")
    with pytest.raises(RouteError, match='"named" has no gate'), loaded.routing(Auto(only=["named"])):
        pass


def test_a_part_of_the_tokens_is_refused_where_rows_have_routes_of_their_own() -> None:
    model = tiny_model()
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=1, pool_rank=8))
    meteora.load_adapter(adapter(model, 4), "math")
    expert, inputs = model.model.layers[0].mlp, torch.randn(7, 64)
    with torch.no_grad(), meteora.routing("math"):
        expert(inputs)
    refused = pytest.raises(RouteError, match=r"no whole number of tokens .* one route for all rows")
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients), meteora.routing(["math", "__base__"]), refused:
            expert(inputs)
