"""What an answer depends on, in one hash: kept answers are of no use to another model, adapter or gate."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from meteora_rs.ops.layout import TableEntry, slot_rows
from meteora_rs.routes import BASE, Auto, Mix

from .variants import Gates, Variant

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora

_SAMPLE = 64


def fingerprint(meteora: Meteora, variant: Variant) -> str:
    """SHA-256 over what the variant's answers depend on.

    That is the model (names, shapes and the first 64 values of each of its tensors), for all but the base the live
    adapters' weights and scalings, and where gates choose, the gates, `top_k` and temperature.
    """
    digest = hashlib.sha256(repr(variant).encode())
    for name, tensor in meteora.model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor.flatten()[:_SAMPLE]))
    if variant == BASE:
        return digest.hexdigest()
    records = [record for record in meteora.adapters() if not isinstance(variant, str) or record.name == variant]
    if isinstance(variant, Mix):
        records = [record for record in records if record.name in variant.weights]
    if isinstance(variant, (Auto, Gates)):
        records = [record for record in records if record.routable]
    for record in records:
        digest.update(f"adapter {record.name}".encode())
        for site in meteora.sites:
            entry = TableEntry.decode(site.table[record.slot].tolist())
            digest.update(f"{entry.rank} {entry.dtype} {entry.scaling!r}".encode())
            digest.update(_bytes(slot_rows(site.lora_A, entry, site.in_features)))
            digest.update(_bytes(slot_rows(site.lora_B_packed, entry, site.out_features)))
    if isinstance(variant, Gates):  # Arrow's rows follow from the weights
        _add_gates(digest, meteora, variant.top_k, rows=not variant.arrow)
    if isinstance(variant, Auto):
        _add_gates(digest, meteora, None)
    return digest.hexdigest()


def _add_gates(digest: hashlib._Hash, meteora: Meteora, top_k: int | None, *, rows: bool = True) -> None:
    digest.update(f"{top_k or meteora.config.top_k} {meteora.config.temperature!r}".encode())
    if not rows:
        return
    slots = [record.slot for record in meteora.adapters() if record.routable]
    if meteora._registry.base_slot is not None:
        slots.append(meteora._registry.base_slot)
    for site in meteora.sites:
        digest.update(repr(slots).encode())
        for tensor in (site.gate[slots], site.gate_bias[slots], site.table[slots, 2]):
            digest.update(_bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
