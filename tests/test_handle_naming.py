"""Aliases and groups: looked up when a request begins, switched in one step."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from meteora_rs import Auto, Meteora, Mix
from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError, RouteError
from tiny import adapter, equal, gate_rows, logits, prompt
from torch import Tensor

IDS = prompt()


def by(meteora: Meteora, route: Any) -> Tensor:
    with meteora.routing(route):
        return logits(meteora.model, IDS)


@pytest.mark.parametrize(
    ("route", "same"),
    [
        ("prod", "math"),
        (Auto(only=["prod", "law"]), Auto(only=["math", "law"])),
        (Mix({"prod": 0.5, "law": 0.5}), Mix({"math": 0.5, "law": 0.5})),
        (Auto(only="@tenant"), Auto(only=["math", "law"])),
        (Auto(only=["@tenant", "sql"]), Auto(only=["math", "law", "sql"])),
        (["prod", "__base__", Auto(only=["@tenant"])], ["math", "__base__", Auto(only=["math", "law"])]),
    ],
)
def test_a_name_that_stands_for_others(loaded: Meteora, route: Any, same: Any) -> None:
    loaded.set_alias("prod", "math")
    loaded.set_group("@tenant", ["prod", "law"])
    assert loaded.aliases() == {"prod": "math"}
    assert loaded.adapter_groups() == {"tenant": ["prod", "law"]}
    assert loaded.adapter("prod") == loaded.adapter("math")
    assert equal(by(loaded, route), by(loaded, same))


def test_a_running_request_keeps_what_an_alias_meant(loaded: Meteora) -> None:
    math, law = by(loaded, "math"), by(loaded, "law")
    loaded.set_alias("prod", "math")
    with loaded.routing("prod"):
        loaded.set_alias("prod", "law")
        assert equal(logits(loaded.model, IDS), math)
        assert equal(by(loaded, "prod"), law)
    loaded.unload_adapter("math")
    loaded.remove_alias("prod")
    with pytest.raises(AdapterNotFoundError, match="prod"):
        by(loaded, "prod")


def test_a_name_is_an_adapter_or_an_alias(loaded: Meteora) -> None:
    loaded.set_alias("prod", "math")
    for change in (
        lambda: loaded.load_adapter(adapter(loaded.model), "prod"),
        lambda: loaded.reload_adapter("prod", adapter(loaded.model)),
        lambda: loaded.unload_adapter("prod"),
        lambda: loaded.pin_adapter("prod"),
        lambda: loaded.set_gates({"prod": gate_rows(loaded, 1)}),
        lambda: loaded.set_alias("law", "math"),
        lambda: loaded.unload_adapter("math"),
    ):
        with pytest.raises(AdapterInUseError, match="alias"):
            change()
    loaded.reload_adapter("math", adapter(loaded.model, seed=9))
    assert equal(by(loaded, "prod"), by(loaded, "math"))


def test_members_are_looked_up_at_use(loaded: Meteora) -> None:
    loaded.set_group("tenant", ["math", "new"])
    with pytest.raises(RouteError, match="new") as caught, loaded.routing(Auto(only="@tenant")):
        pass
    assert "law" not in str(caught.value)
    loaded.load_adapter(adapter(loaded.model, seed=5), "new")
    assert equal(by(loaded, Auto(only="@tenant")), by(loaded, Auto(only=["math", "new"])))
    loaded.remove_group("tenant")
    with pytest.raises(RouteError, match="there is no group"):
        by(loaded, Auto(only="@tenant"))


def test_a_switch_is_one_step(loaded: Meteora) -> None:
    expected = [by(loaded, name) for name in ("math", "law")]
    loaded.set_alias("prod", "math")
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            found = by(loaded, ["prod", "__base__", "prod"])
            if not any(equal(found[[0, 2]], each[[0, 2]]) for each in expected):
                torn.append(found)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(200):
        loaded.set_alias("prod", ("law", "math")[turn % 2])
    stop.set()
    thread.join()
    assert not torn
