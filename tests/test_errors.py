"""Every error class with its messages, each as somebody would meet it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, errors
from tiny import adapter, gate_rows, logits, prompt
from torch import nn

SHAPE = "has shape [5, 64], and rank 4 in model.layers.0.self_attn.q_proj needs [4, 64]"
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def misshapen(meteora: Meteora) -> Any:
    source = adapter(meteora.model, 4)
    source["tensors"][KEY] = torch.zeros(5, 64)
    return source


def configured(meteora: Meteora, **config: Any) -> Any:
    return adapter(meteora.model, 4, **config)


def route(meteora: Meteora, routes: Any) -> None:
    with meteora.routing(routes):
        logits(meteora.model, prompt(3))


def in_block(meteora: Meteora, action: Callable[[Meteora], object]) -> None:
    with meteora.routing("math"):
        action(meteora)


def entered_twice(meteora: Meteora) -> None:
    block = meteora.routing("math")
    for _ in range(2):
        with block:
            pass


def pinned(meteora: Meteora) -> None:
    meteora.pin_adapter("math")
    meteora.unload_adapter("math")


def detached(meteora: Meteora) -> None:
    meteora.detach()
    meteora.load_adapter({}, "new")


def ended(meteora: Meteora) -> None:
    plan = meteora._context.plan(["math"], None)
    with meteora._context.enter(plan, "routing"):
        pass
    with meteora._context.enter(plan, "routing"):
        pass


def batched(meteora: Meteora) -> None:
    with meteora.routing("math"):
        meteora.model.generate_batch([[5, 6]])


def exported(meteora: Meteora) -> None:
    torch.export.export(meteora.model, (prompt(),), {"use_cache": False}, strict=False)


def no_gate(meteora: Meteora) -> None:
    meteora.load_adapter(configured(meteora), "new", gate="none")
    route(meteora, Auto(only=["new"]))


EXAMPLES: list[tuple[str, str, Callable[[Meteora], object]]] = [
    ("MeteoraError", "the model is attached already; load more adapters", lambda m: meteora_rs.attach(m.model)),
    ("MeteoraError", "Linear has no nn.Linear under a decoder layer", lambda _: meteora_rs.attach(nn.Linear(2, 2))),
    ("MeteoraError", "an attached model can't be deep-copied", lambda m: copy.deepcopy(m.model)),
    ("AdapterNotFoundError", 'no adapter named "medicine"; loaded: law, math, sql', lambda m: route(m, "medicine")),
    ("AdapterNotFoundError", 'no adapter named "medicine"', lambda m: m.unload_adapter("medicine")),
    ("AdapterFormatError", 'adapter "../x": a name has 1 to 128 characters', lambda m: m.load_adapter({}, "../x")),
    (
        "AdapterFormatError", f'adapter "new": tensor {KEY}: {SHAPE} (file: <memory>)',
        lambda m: m.load_adapter(misshapen(m), "new"),
    ),
    (
        "AdapterFormatError", "adapter 'new': an adapter in memory is {\"config\": …, \"tensors\": state_dict}",
        lambda m: m.load_adapter({"weights": {}}, "new"),
    ),
    (
        "AdapterFormatError", "gate for 'lm_head', which is no site of the model",
        lambda m: m.load_adapter(configured(m), "new", gate={"lm_head": torch.zeros(64)}),
    ),
    (
        "AdapterFormatError", "adapter 'new': no gate row for site 'model.layers.0.self_attn.o_proj' or its",
        lambda m: m.load_adapter(configured(m), "new", gate={m.sites[0].path: torch.zeros(64)}),
    ),
    (
        "AdapterFormatError", "gate of model.layers.0.self_attn.q_proj: a value that is not finite in float32",
        lambda m: m.load_adapter(configured(m), "new", gate={m.sites[0].path: torch.full((64,), torch.inf)}),
    ),
    ("AdapterFormatError", "adapter 'math': gate rows are needed, not None", lambda m: m.set_gates({"math": None})),
    (
        "AdapterUnsupportedError", 'adapter "new": PEFT option use_dora=true is not supported: DoRA rescales',
        lambda m: m.load_adapter(configured(m, use_dora=True), "new"),
    ),
    (
        "AdapterInUseError", 'adapter "math" is in use: a live adapter has this name; use reload_adapter',
        lambda m: m.load_adapter(configured(m), "math"),
    ),
    ("AdapterInUseError", 'adapter "math" is in use: it is pinned', pinned),
    (
        "AdapterInUseError", 'adapter "math" is in use: another call is loading or reloading it; wait for',
        lambda m: (m._registry.reserve_gates(["math"], False), m.unload_adapter("math")),
    ),
    (
        "AdapterInUseError",
        'adapter "math" is in use: running requests hold its gate rows; new ones take a slot of their own '
        "(2 needed, 1 free): try again when requests have ended, unload an adapter or raise max_adapters",
        lambda m: in_block(m, lambda n: n.set_gates({"math": gate_rows(n, 1), "law": gate_rows(n, 2)})),
    ),
    (
        "AdapterInUseError",
        "where 1000 was expected: it was changed meanwhile; look at it again before replacing it",
        lambda m: m.reload_adapter("math", configured(m), if_generation=1000),
    ),
    (
        "AdapterInUseError", 'adapter "math" is in use: an adapter has this name; an alias takes another',
        lambda m: m.set_alias("math", "law"),
    ),
    (
        "AdapterInUseError", 'adapter "prod" is in use: it is an alias itself; point to its adapter, "math"',
        lambda m: (m.set_alias("prod", "math"), m.set_alias("next", "prod")),
    ),
    (
        "AdapterInUseError",
        'adapter "math" is in use: the alias "prod" points to it; set_alias() or remove_alias() first',
        lambda m: (m.set_alias("prod", "math"), m.unload_adapter("math")),
    ),
    (
        "AdapterInUseError", 'adapter "prod" is in use: it is an alias of "math"; changes take the adapter\'s own name',
        lambda m: (m.set_alias("prod", "math"), m.load_adapter(configured(m), "prod")),
    ),
    ("AdapterNotFoundError", "no alias named 'prod'; there are: none", lambda m: m.remove_alias("prod")),
    ("RouteError", "no group named 'tenant'; there are: none", lambda m: m.remove_group("tenant")),
    ("RouteError", 'group "tenant" needs a member', lambda m: m.set_group("tenant", [])),
    ("RouteError", "its members are a list of names, not 'math'", lambda m: m.set_group("tenant", "math")),
    ("RouteError", 'there is no group "@tenant"; set_group() makes one', lambda m: route(m, Auto(only="@tenant"))),
    (
        "RouteError", 'row 0: group "@tenant" lists "medicine", which is no live adapter',
        lambda m: (m.set_group("tenant", ["math", "medicine"]), route(m, Auto(only="@tenant"))),
    ),
    ("RouteError", "'@tenant' is a group, and a route is one adapter", lambda m: route(m, "@tenant")),
    ("ValueError", "wait must be 0 or more seconds, or None, not -1", lambda m: m.unload_adapter("math", wait=-1)),
    ("MeteoraError", "there is no host tier: attach with MeteoraConfig(host_bytes", lambda m: m.prefetch(["math"])),
    ("MeteoraError", "a Meteora can't be copied: attach() to the copy of the model", copy.deepcopy),
    ("MeteoraError", "this Meteora has been detached from its model; attach() again", detached),
    ("MeteoraError", "the request has ended, or its adapters are being changed", ended),
    ("MeteoraError", "a routing() block is entered once; call routing() again", entered_twice),
    (
        "CapacityError", 'adapter "new" does not fit: needs 72 rank rows, free 40 of 64 (largest run ',
        lambda m: m.load_adapter(adapter(m.model, 65), "new"),
    ),
    ("RouteError", "there are no routes; give one, or one for each row", lambda m: route(m, [])),
    (
        "RouteError", 'row 0: adapter "prod" is twice in the mix',
        lambda m: (m.set_alias("prod", "math"), route(m, meteora_rs.Mix({"math": 1, "prod": 1}))),
    ),
    ("RouteError", 'adapter "new" has no gate (gate="none"), so Auto can\'t choose it', no_gate),
    ("RouteError", "mixes all requests in a thread of its own, which follows Auto()", batched),
    ("MeteoraError", "an attached model can't be exported or traced by torch.jit", exported),
    ("RouteError", "2 routes for a batch of 3 rows", lambda m: route(m, ["math", "law"])),
    ("RouteError", "only is empty: it allows no adapter", lambda _: Auto(only=[])),
    ("RouteError", "the weight of 'math' must be finite and not negative", lambda _: meteora_rs.Mix({"math": -1})),
    ("ValueError", "max_adapters must be an integer from 1 to 4096, not 0", lambda _: MeteoraConfig(max_adapters=0)),
    ("ValueError", "kind must be one of tensors, fitted, examples, not 'x'", lambda m: m.set_gates({}, kind="x")),
    ("ValueError", "interval must be above 0 seconds, not 0", lambda m: m.watch(".", interval=0)),
    ("ValueError", 'gate must be "arrow", "none"', lambda m: m.load_adapter(configured(m), "new", gate="x")),
    ("FileNotFoundError", "no such adapter folder: ./nowhere", lambda m: m.load_adapter("./nowhere", "new")),
    ("FileNotFoundError", "no such adapter folder: a/b", lambda m: m.load_adapter(Path("a/b"), "new")),
]  # fmt: skip

ALSO = {
    "AdapterNotFoundError": KeyError,
    "AdapterFormatError": ValueError,
    "AdapterUnsupportedError": ValueError,
    "AdapterInUseError": Exception,
    "CapacityError": Exception,
    "RouteError": ValueError,
}


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_messages(loaded: Meteora, index: int) -> None:
    name, message, action = EXAMPLES[index]
    with pytest.raises(Exception) as caught:
        action(loaded)
    assert type(caught.value).__name__ == name, repr(caught.value)
    assert message in str(caught.value)


def test_every_class_has_an_example_and_what_people_catch() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes == {"MeteoraError", *ALSO}
    assert classes <= {name for name, *_ in EXAMPLES}
    for name, also in ALSO.items():
        assert issubclass(getattr(errors, name), errors.MeteoraError)
        assert issubclass(getattr(errors, name), also)
