"""Bad adapters from folders, memory and the hub: named errors, and nothing left behind."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from meteora_rs import Meteora
from meteora_rs.errors import AdapterFormatError, AdapterUnsupportedError
from tiny import adapter, equal, logits, prompt, tiny_model, usage, write
from torch import Tensor

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def good(**config: Any) -> dict[str, Any]:
    return adapter(tiny_model(), 4, **config)


def with_tensor(key: str, value: Tensor | None) -> dict[str, Any]:
    source = good()
    if value is None:
        del source["tensors"][key]
    else:
        source["tensors"][key] = value
    return source


def spoilt(index: tuple[int, int], value: float) -> dict[str, Any]:
    source = good()
    source["tensors"][KEY][index] = value
    return source


# Refused alike from a folder and from memory; the part of the message that says why.
CONTENT: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "wrong shape": (lambda: with_tensor(KEY, torch.zeros(4, 63)), "format", KEY),
    "transposed": (lambda: with_tensor(KEY, torch.zeros(64, 4)), "format", KEY),
    "one dimension": (lambda: with_tensor(KEY, torch.zeros(256)), "format", KEY),
    "no elements": (lambda: with_tensor(KEY, torch.zeros(0, 64)), "format", KEY),
    "missing half": (lambda: with_tensor(KEY, None), "format", "has no lora_A"),
    "lying rank": (lambda: good(r=8), "format", "rank 8"),
    "lying rank pattern": (lambda: good(rank_pattern={"q_proj": 2}), "format", "rank 2"),
    "rank zero": (lambda: good(r=0), "format", "r"),
    "rank negative": (lambda: good(r=-4), "format", "r"),
    "rank a text": (lambda: good(r="4"), "format", "r"),
    "rank huge": (lambda: good(r=2**62), "format", "r"),
    "alpha a text": (lambda: good(lora_alpha="x"), "format", "lora_alpha"),
    "alpha not finite": (lambda: good(lora_alpha=float("inf")), "format", "Infinity|JSON|line|number"),
    "alpha beyond float32": (lambda: good(lora_alpha=1e300), "format", "lora_alpha"),
    "NaN": (lambda: spoilt((1, 2), float("nan")), "format", "element 66 is NaN or infinite"),
    "infinity": (lambda: spoilt((3, 63), float("-inf")), "format", "element 255"),
    "integers": (lambda: with_tensor(KEY, torch.zeros(4, 64).int()), "format", "int32|I32"),
    "float64": (lambda: with_tensor(KEY, torch.zeros(4, 64).double()), "format", "float64|F64"),
    "no such layer": (
        lambda: with_tensor(KEY.replace("layers.0", "layers.7"), torch.zeros(4, 64)), "format", "layers.7",
    ),
    "no such module": (lambda: with_tensor(KEY.replace("q_proj", "z_proj"), torch.zeros(4, 64)), "format", "z_proj"),
    "no such layer in the config": (lambda: good(layers_to_transform=[0, 9]), "format", "layer 9"),
    "a key of another form": (lambda: with_tensor("weights", torch.zeros(1)), "format", "weights"),
    "not targeted": (lambda: good(target_modules=["k_proj"]), "format", "does not target"),
    "DoRA": (lambda: good(use_dora=True), "unsupported", "use_dora"),
    "DoRA in the tensors": (
        lambda: with_tensor(KEY.replace("lora_A.weight", "lora_magnitude_vector"), torch.zeros(64)),
        "unsupported", "use_dora",
    ),
    "bias": (lambda: good(bias="all"), "unsupported", "bias"),
    "lora_bias": (lambda: good(lora_bias=True), "unsupported", "lora_bias"),
    "modules_to_save": (lambda: good(modules_to_save=["lm_head"]), "unsupported", "modules_to_save"),
    "IA3": (lambda: good(peft_type="IA3"), "unsupported", "IA3"),
    "no type": (lambda: good(peft_type=None), "format", "peft_type"),
    "an unknown option": (lambda: good(use_magic=True), "unsupported", "use_magic"),
    "PiSSA": (lambda: good(init_lora_weights="pissa"), "unsupported", "pissa"),
    "no tensors": (lambda: {**good(), "tensors": {}}, "format", "no tensors"),
}  # fmt: skip
CLASSES = {"format": AdapterFormatError, "unsupported": AdapterUnsupportedError}


@pytest.mark.parametrize("what", CONTENT)
@pytest.mark.parametrize("memory", [False, True], ids=["folder", "memory"])
def test_bad_content_is_refused(loaded: Meteora, what: str, memory: bool, tmp_path: Path) -> None:
    make, kind, part = CONTENT[what]
    before, output = (loaded.adapters(), usage(loaded)), logits(loaded.model, prompt())
    with pytest.raises(CLASSES[kind], match=part) as caught:
        loaded.load_adapter(make() if memory else write(make(), tmp_path / "it"), "new")
    message = str(caught.value)
    assert 'adapter "new"' in message and ("(file: <memory>)" if memory else str(tmp_path)) in message
    assert (loaded.adapters(), usage(loaded)) == before
    assert equal(logits(loaded.model, prompt()), output)


def replace_header(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def overlap(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


FILES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda f: os.truncate(f / TENSORS, (f / TENSORS).stat().st_size - 1),
    "header only": lambda f: os.truncate(f / TENSORS, 300),
    "seven bytes": lambda f: os.truncate(f / TENSORS, 7),
    "empty": lambda f: os.truncate(f / TENSORS, 0),
    "trailing bytes": lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes() + b"x"),
    "huge header": lambda f: (f / TENSORS).write_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "header of 4 GB": lambda f: (f / TENSORS).write_bytes(struct.pack("<Q", 2**32) + b"{}"),
    "header no JSON": lambda f: (f / TENSORS).write_bytes(struct.pack("<Q", 4) + b"\xff\xfe{}"),
    "overlapping": lambda f: replace_header(f / TENSORS, overlap),
    "config empty": lambda f: (f / CONFIG).write_text(""),
    "config truncated": lambda f: (f / CONFIG).write_text('{"peft_type": "LORA", "r": 4'),
    "config a list": lambda f: (f / CONFIG).write_text("[]"),
    "config not UTF-8": lambda f: (f / CONFIG).write_bytes(b'{"r": "\xff"}'),
    "config deep": lambda f: (f / CONFIG).write_text('{"r":' + "[" * 100_000),
    "duplicate keys": lambda f: (f / CONFIG).write_text('{"r": 4, ' + (f / CONFIG).read_text()[1:]),
    "NaN in the config": lambda f: (f / CONFIG).write_text((f / CONFIG).read_text().replace('"r": 4', '"r": NaN')),
    "config a folder": lambda f: ((f / CONFIG).unlink(), (f / CONFIG).mkdir()),
    "tensors a device": lambda f: ((f / TENSORS).unlink(), (f / TENSORS).symlink_to("/dev/zero")),
    "config a device": lambda f: ((f / CONFIG).unlink(), (f / CONFIG).symlink_to("/dev/tty")),
    "tensors a pipe": lambda f: ((f / TENSORS).unlink(), os.mkfifo(f / TENSORS)),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", FILES)
def test_bad_files_are_refused(loaded: Meteora, what: str, tmp_path: Path) -> None:
    folder = write(good(), tmp_path / "it")
    FILES[what](folder)
    before = loaded.adapters(), usage(loaded)
    with pytest.raises(AdapterFormatError, match='adapter "new"') as caught:
        loaded.load_adapter(folder, "new")
    assert f"(file: {folder}" in str(caught.value)
    assert (loaded.adapters(), usage(loaded)) == before
    loaded.load_adapter(write(good(), tmp_path / "good"), "new")
