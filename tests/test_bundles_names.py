"""Aliases and groups are saved with the adapters, and come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from meteora_rs import Auto, Meteora, attach_pretrained
from meteora_rs.bundles.manifest import MANIFEST
from meteora_rs.errors import AdapterFormatError
from tiny import equal, logits, prompt, tiny_model
from torch import Tensor


def by(meteora: Meteora, route: Any) -> Tensor:
    with meteora.routing(route):
        return logits(meteora.model, prompt())


def rewritten(folder: Path, **changes: Any) -> Path:
    """The bundle with other fields in its manifest; None: without that field."""
    path = folder / MANIFEST
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))
    return folder


def test_names_come_back(loaded: Meteora, tmp_path: Path) -> None:
    loaded.set_alias("prod", "math")
    loaded.set_group("tenant", ["prod", "law", "later"])
    loaded.set_group("all", ["law", "math"])
    loaded.save_pretrained(tmp_path / "bundle")
    again = attach_pretrained(tiny_model(), tmp_path / "bundle")
    assert again.aliases() == loaded.aliases() == {"prod": "math"}
    assert again.adapter_groups() == loaded.adapter_groups()
    for route in ("prod", Auto(only="@all")):
        assert equal(by(again, route), by(loaded, route))


def test_names_of_what_is_not_on_the_device(tiered: Meteora, tmp_path: Path) -> None:
    tiered.prefetch(["a"])
    tiered.set_alias("here", "a")
    tiered.set_alias("there", "e")
    tiered.save_pretrained(tmp_path / "bundle")
    again = attach_pretrained(tiny_model(), tmp_path / "bundle")
    assert again.aliases() == {"here": "a", "there": "e"}
    assert equal(by(again, "there"), by(tiered, "e"))


def test_bundles_had_no_names_once(loaded: Meteora, tmp_path: Path) -> None:
    loaded.set_alias("prod", "math")
    loaded.save_pretrained(tmp_path)
    again = attach_pretrained(tiny_model(), rewritten(tmp_path, aliases=None, groups=None))
    assert not again.aliases() and not again.adapter_groups()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("aliases", ["prod"], "objects"),
        ("groups", "all", "objects"),
        ("aliases", {"prod": "gone"}, "'prod': the bundle has no adapter 'gone'"),
        ("aliases", {"prod": ["math"]}, "'prod': the bundle has no adapter"),
        ("aliases", {"a": "math", "b": "a"}, "'b': the bundle has no adapter 'a'"),
        ("aliases", {"law": "math"}, "'law': an adapter of the bundle has this name"),
        ("aliases", {"../x": "math"}, "'../x' is no legal name"),
        ("groups", {"@all": ["math"]}, "'@all' is no legal name"),
        ("groups", {"all": ["math", "__base__"]}, "'all': '__base__' is no legal name"),
        ("groups", {"all": ["math", 1]}, "'all': 1 is no legal name"),
        ("groups", {"all": []}, "'all': its members are a list"),
        ("groups", {"all": "math"}, "'all': its members are a list"),
    ],
)
def test_damaged_names_are_refused_before_anything_is_loaded(
    loaded: Meteora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: Any, said: str
) -> None:
    loaded.save_pretrained(tmp_path)
    rewritten(tmp_path, **{field: value})
    monkeypatch.setattr(Meteora, "load_adapter", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(AdapterFormatError) as caught:
        attach_pretrained(tiny_model(), tmp_path)
    assert said in str(caught.value) and str(tmp_path / MANIFEST) in str(caught.value)
