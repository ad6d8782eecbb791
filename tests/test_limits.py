"""What is too large is refused by name, from folders and from memory, before it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Limits, MeteoraConfig
from meteora_rs.errors import AdapterFormatError
from meteora_rs.evaluate.arrow import arrow_gates
from tiers_case import by
from tiny import adapter, equal, gate_rows, write
from transformers import PreTrainedModel

SMALL: dict[str, tuple[int, str, bool]] = {
    "max_file_bytes": (1000, r"bytes, more than the limit of 1000", True),
    "max_header_bytes": (100, "limit of 100", False),
    "max_config_bytes": (50, "limit of 50", True),
    "max_rank": (3, "r must be an integer from 1 to 3", True),
    "max_tensors": (27, "28 tensors, more than the limit of 27", True),
    "max_json_depth": (1, "nested deeper than the limit of 1", True),
    "max_patterns": (6, "target_modules has 7 entries, more than the limit of 6", True),
}
"""A limit that an ordinary adapter exceeds, what is said, and whether it holds for one in memory."""


@pytest.mark.parametrize("field", SMALL)
@pytest.mark.parametrize("memory", [False, True], ids=["folder", "memory"])
def test_each_limit(model: PreTrainedModel, tmp_path: Path, field: str, memory: bool) -> None:
    value, message, of_memory = SMALL[field]
    meteora = meteora_rs.attach(model, MeteoraConfig(limits=Limits(**{field: value})))
    source: Any = adapter(model)
    if not memory:
        source = write(source, tmp_path / "it")
    if memory and not of_memory:
        meteora.load_adapter(source, "new")
        return
    with pytest.raises(AdapterFormatError, match=f'adapter "new".*{message}'):
        meteora.load_adapter(source, "new")
    assert meteora.adapters() == []


def test_memory_is_measured_before_it_is_copied(model: PreTrainedModel) -> None:
    source = adapter(model)
    key = next(iter(source["tensors"]))
    source["tensors"][key] = torch.zeros(1).expand(1 << 40)  # four terabytes, were it copied
    with pytest.raises(AdapterFormatError, match=r"bytes, more than the limit"):
        meteora_rs.attach(model).load_adapter(source, "new")


def test_a_header_is_measured_before_it_is_parsed(model: PreTrainedModel, tmp_path: Path) -> None:
    folder = write(adapter(model), tmp_path / "it")
    text = json.dumps({"__metadata__": {"a": "[" * 1000}})
    nested = '{"a":' * 40 + "1" + "}" * 40
    meteora = meteora_rs.attach(model)
    for header, what in ((nested, "nested deeper than the limit of 32"), (text, "no tensors")):
        data = len(header).to_bytes(8, "little") + header.encode()
        (folder / "adapter_model.safetensors").write_bytes(data)
        with pytest.raises(AdapterFormatError, match=what):
            meteora.load_adapter(folder, "new")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9", 1 << 63])
def test_limits_are_positive_integers(value: Any) -> None:
    for field in SMALL:
        with pytest.raises(ValueError, match=field):
            Limits(**{field: value})
    with pytest.raises(ValueError, match="max_json_depth"):
        Limits(max_json_depth=128)


def test_what_is_served_is_no_strangers(model: PreTrainedModel, tmp_path: Path) -> None:
    """Read back it names its linears one by one, where its own config took a word."""
    meteora = meteora_rs.attach(model, MeteoraConfig(limits=Limits(max_patterns=1)))
    source = adapter(model, ranks={"q_proj": 2}, target_modules="all-linear")
    meteora.load_adapter(write(source, tmp_path / "it"), "it", gate=gate_rows(meteora, 1))
    meteora.verify_adapter("it")
    with arrow_gates(meteora):
        assert meteora.adapter("it").gate == "arrow"


def test_a_bundle_says_no_more_than_the_adapters_did(model: PreTrainedModel, tmp_path: Path) -> None:
    limits = Limits(max_patterns=7)
    meteora = meteora_rs.attach(model, MeteoraConfig(limits=limits))
    meteora.load_adapter(adapter(model, ranks={"q_proj": 2}), "it")
    before = by(meteora, "it")
    meteora.save_pretrained(tmp_path / "bundle")
    meteora.detach()
    again = meteora_rs.attach_pretrained(model, tmp_path / "bundle", MeteoraConfig(limits=limits))
    assert equal(by(again, "it"), before)
    again.detach()


def test_a_bundle_brings_no_permissions(model: PreTrainedModel, tmp_path: Path) -> None:
    write(adapter(model), tmp_path / "root" / "it")
    config = MeteoraConfig(limits=Limits(max_rank=5), adapter_root=tmp_path / "root", require_routing=True)
    meteora = meteora_rs.attach(model, config)
    meteora.load_adapter("it", "it")
    meteora.save_pretrained(tmp_path / "bundle")
    meteora.detach()
    manifest = json.loads((tmp_path / "bundle" / "meteora.json").read_text())
    assert not {"limits", "adapter_root", "require_routing"} & set(manifest["config"])
    again = meteora_rs.attach_pretrained(model, tmp_path / "bundle")
    assert again.config.limits == Limits() and again.config.adapter_root is None
    again.detach()
    again = meteora_rs.attach_pretrained(model, tmp_path / "bundle", MeteoraConfig(require_routing=True))
    assert again.config.require_routing
    again.detach()
    manifest["config"]["require_routing"] = False
    (tmp_path / "bundle" / "meteora.json").write_text(json.dumps(manifest))
    with pytest.raises(AdapterFormatError, match="require_routing"):
        meteora_rs.attach_pretrained(model, tmp_path / "bundle")
