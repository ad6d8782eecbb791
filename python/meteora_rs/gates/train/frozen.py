"""What training must not change: the base and the adapters, held to it by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from meteora_rs.attached.attached import Attached
from meteora_rs.errors import MeteoraError
from meteora_rs.ops.layout import TableEntry, slot_rows
from meteora_rs.routes import BASE


@contextmanager
def frozen(meteora: Attached, names: Sequence[str]) -> Iterator[None]:
    """No parameter of the model takes a gradient inside the block, and none may change, nor the adapters `names`.

    Raises:
        MeteoraError: something did change; names the first tensor.
    """
    before = hashes(meteora, names)
    learning = [parameter for parameter in meteora.model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
        after = hashes(meteora, names)
        if changed := [tensor for tensor, sha256 in before.items() if after[tensor] != sha256]:
            raise MeteoraError(f"{changed[0]} changed while gates were trained; they are as they were")
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def hashes(meteora: Attached, names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each parameter of the model, and of each adapter's rows at each site, by what they are."""
    found = {name: _sha256(parameter) for name, parameter in meteora.model.named_parameters()}
    for name in names:
        if name == BASE:
            continue
        slot = meteora.adapter(name).slot
        for site in meteora.sites:
            entry = TableEntry.decode(site.table[slot].tolist())
            a = slot_rows(site.lora_A, entry, site.in_features)
            b = slot_rows(site.lora_B_packed, entry, site.out_features)
            found[f"adapter {name!r} at {site.path}"] = f"{entry.scaling} {_sha256(a)} {_sha256(b)}"
    return found


def _sha256(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
