"""An adapter written back as a PEFT folder, from the pools or from the host's copy."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.files.source import parse
from meteora_rs.files.tensor_file import save_tensors
from meteora_rs.limits import LARGEST
from meteora_rs.ops.layout import TableEntry, slot_rows
from meteora_rs.sites.site import Site

Value = TypeVar("Value")

Module = tuple[str, Tensor, Tensor, float]
"""(site path, A `[rank, in]`, B transposed `[rank, out]`, scaling)"""


def live_modules(sites: Sequence[Site], slot: int) -> Iterator[Module]:
    """What a slot of the pools holds, as views."""
    for site in sites:
        entry = TableEntry.decode(site.table[slot].tolist())
        if entry.rank:
            a = slot_rows(site.lora_A, entry, site.in_features)
            yield site.path, a, slot_rows(site.lora_B_packed, entry, site.out_features), entry.scaling


def resting_modules(sites: Sequence[Site], copy: _native.HostCopy) -> Iterator[Module]:
    """What a copy in the host's memory holds."""
    for index, rank, scaling, dtype, a, b in copy.modules():
        lora_a, lora_b = (torch.frombuffer(each, dtype=getattr(torch, dtype)).view(rank, -1) for each in (a, b))
        yield sites[index].path, lora_a, lora_b, scaling


def write_peft_folder(modules: Iterable[Module], folder: Path, paths: Iterable[str]) -> str:
    """Write `adapter_config.json` and `adapter_model.safetensors`; returns the latter's SHA-256.

    paths: of all modules of the model, so that those of one name which are alike are named by that, as users do.

    Raises:
        OSError: the folder can't be written.
    """
    config, tensors = peft_parts(modules, paths)
    folder.mkdir(parents=True)
    weights = folder / "adapter_model.safetensors"
    save_tensors(tensors, weights, metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def peft_parts(modules: Iterable[Module], paths: Iterable[str] = ()) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of an adapter; `paths` as in `write_peft_folder`.

    The weights are those that are served, bit for bit and in their own dtype; ranks and scalings that differ by
    site become `rank_pattern` and `alpha_pattern`.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for path, a, b, scaling in modules:
        prefix = f"base_model.model.{path}"
        tensors[f"{prefix}.lora_A.weight"] = a.contiguous()
        tensors[f"{prefix}.lora_B.weight"] = b.T.contiguous()
        ranks[path] = len(a)
        # scaling = alpha / r in float32; a double holds scaling · r exactly, so reading it back gives the same.
        alphas[path] = scaling * len(a)
    return _config(ranks, alphas, list(paths)), tensors


def parse_own(sites: Sequence[Site], modules: Iterable[Module], name: str) -> _native.Adapter:
    """The adapter of modules that are in memory already, as it would be read from files.

    Limits are for what strangers bring: this one names its linears one by one, where its own config took a word.
    """
    shapes = [(site.path, site.in_features, site.out_features, 0) for site in sites]
    config, tensors = peft_parts(modules)
    return parse(_native.Registry(1, 8, 4, shapes, asdict(LARGEST)), {"config": config, "tensors": tensors}, name)


def _config(ranks: dict[str, int], alphas: dict[str, float], paths: Sequence[str]) -> dict[str, Any]:
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "lora_alpha": int(alpha) if math.isfinite(alpha) and alpha == int(alpha) else alpha,
        "target_modules": sorted(_by_name(dict.fromkeys(ranks, True), paths)),
        "rank_pattern": {key: each for key, each in _by_name(ranks, paths).items() if each != rank},
        "alpha_pattern": {key: each for key, each in _by_name(alphas, paths).items() if each != alpha},
    }


def _by_name(values: Mapping[str, Value], paths: Iterable[str]) -> dict[str, Value]:
    """Values by path; by the last component alone where all modules of the model that end in it have the same."""
    found: dict[str, set[Value | None]] = {}
    for path in paths:
        found.setdefault(path.rpartition(".")[2], set()).add(values.get(path))
    alike = {name for name, each in found.items() if len(each) == 1}
    return {name if (name := path.rpartition(".")[2]) in alike else path: each for path, each in values.items()}
