"""A live adapter written back as a PEFT folder."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from meteora_rs.ops.layout import TableEntry, slot_rows
from meteora_rs.tensor_file import save_tensors

if TYPE_CHECKING:
    from meteora_rs.meteora import AdapterRecord, Meteora


def write_peft_folder(meteora: Meteora, record: AdapterRecord, folder: Path) -> str:
    """Write `adapter_config.json` and `adapter_model.safetensors` from the pools; returns the latter's SHA-256.

    Raises:
        OSError: the folder can't be written.
    """
    config, tensors = peft_parts(meteora, record)
    folder.mkdir(parents=True)
    weights = folder / "adapter_model.safetensors"
    save_tensors(tensors, weights, metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def peft_parts(meteora: Meteora, record: AdapterRecord) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a live adapter.

    The weights are those that are served, bit for bit and in their own dtype; ranks and scalings that differ by
    site become `rank_pattern` and `alpha_pattern`.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for site in meteora.sites:
        entry = TableEntry.decode(site.table[record.slot].tolist())
        if entry.rank == 0:
            continue
        prefix = f"base_model.model.{site.path}"
        tensors[f"{prefix}.lora_A.weight"] = slot_rows(site.lora_A, entry, site.in_features).contiguous()
        packed = slot_rows(site.lora_B_packed, entry, site.out_features)
        tensors[f"{prefix}.lora_B.weight"] = packed.T.contiguous()
        ranks[site.path] = entry.rank
        # scaling = alpha / r in float32; a double holds scaling · r exactly, so reading it back gives the same.
        alphas[site.path] = entry.scaling * entry.rank
    return _config(ranks, alphas), tensors


def _config(ranks: dict[str, int], alphas: dict[str, float]) -> dict[str, Any]:
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "lora_alpha": int(alpha) if math.isfinite(alpha) and alpha == int(alpha) else alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": {path: each for path, each in ranks.items() if each != rank},
        "alpha_pattern": {path: each for path, each in alphas.items() if each != alpha},
    }
