"""A checkpoint of the MeteoRA authors', with the PEFT adapters that went into it, turned into a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from meteora_rs.attach import attach
from meteora_rs.config import MeteoraConfig
from meteora_rs.errors import AdapterFormatError
from meteora_rs.files.source import resolve_folder
from meteora_rs.gate_kinds.tensors import Row
from meteora_rs.sites.architecture import find_sites

from .layout import GATE, PREFIX, Linear, read_layout
from .order import Adapter, adapter_order
from .tensors import Tensors


def import_official(
    checkpoint: str | os.PathLike[str],
    adapters: Mapping[str, str | os.PathLike[str]],
    output: str | Path,
    *,
    config: MeteoraConfig | None = None,
) -> list[str]:
    """Write the checkpoint's gates and its adapters as a bundle, which `attach_pretrained` reads; returns their order.

    The file does not say in which order it holds the adapters, nor their alpha. The order is found by matching their
    weights; weights and scalings are taken from the PEFT folders. The gates have no bias: 0. The base model's own
    weights are left where they are: attach to the model that the checkpoint was made from.

    Args:
        checkpoint: `model.safetensors`, the index of several files, or their folder (`importing/layout.py`).
        adapters: a PEFT folder (or hub id) for every adapter of the checkpoint, in any order, by name.
        output: the bundle; an older one is replaced.
        config: `top_k` and temperature are not in the checkpoint; those that it was trained with are best. Slots
            and pools grow to what the adapters need.

    Raises:
        AdapterFormatError: no such checkpoint, or an order that can't be established; see `adapter_order`. Others as
            `Meteora.load_adapter`; nothing is written then.
        MeteoraError: `output` exists and is no bundle.
        OSError: a file can't be read or written.
    """
    tensors = Tensors(checkpoint)
    linears, count = read_layout(tensors)
    folders = {name: resolve_folder(source) for name, source in adapters.items()}
    read = {name: _read_adapter(name, folder) for name, folder in folders.items()}
    if len(read) != count:
        raise AdapterFormatError(
            f"the checkpoint's gates are for {count} adapters, and {len(read)} are given (file: {tensors.path})"
        )
    order = adapter_order(tensors, linears, read)
    # Two bytes an element: in a wider model the adapters fit all the more.
    meteora = attach(_skeleton(linears), _roomy(config or MeteoraConfig(), read))
    gates = {linear.path: tensors.read(linear.tensor(GATE)) for linear in linears if linear.rows}
    leaders = {info.path: info.leader for info in find_sites(meteora.model)}
    for place, name in enumerate(order):
        rows: dict[str, Row] = {path: (gate[place].float(), 0.0) for path, gate in gates.items()}
        for linear in linears:
            # No adapter acts here, so any row will do; its group's leader's, if there is one, costs nothing.
            if not linear.rows and leaders[linear.path] not in gates:
                rows[linear.path] = (torch.zeros(linear.in_features, dtype=torch.float32), 0.0)
        meteora.load_adapter(folders[name], name, gate=rows)
    meteora.save_pretrained(output)
    return order


def _read_adapter(name: str, folder: Path) -> Adapter:
    tensors = Tensors(folder / "adapter_model.safetensors")
    halves: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    for key in tensors:
        path, dot, rest = key.removeprefix(PREFIX).partition(".lora_")
        if dot and rest[:1] in halves and rest.endswith("weight"):
            halves[rest[0]][path] = tensors.read(key)
    if not halves["A"] or set(halves["A"]) != set(halves["B"]):
        raise AdapterFormatError(f"adapter {name!r}: no lora_A and lora_B tensors in pairs (file: {tensors.path})")
    return {path: (lora_a, halves["B"][path]) for path, lora_a in halves["A"].items()}


def _roomy(config: MeteoraConfig, adapters: Mapping[str, Adapter]) -> MeteoraConfig:
    rows = 0
    for adapter in adapters.values():
        pages = [-(-len(lora_a) // 8) * max(1, lora_a.dtype.itemsize // 2) for lora_a, _ in adapter.values()]
        rows += 8 * max(pages)
    return replace(config, max_adapters=max(config.max_adapters, len(adapters)), pool_rank=max(config.pool_rank, rows))


def _skeleton(linears: Sequence[Linear]) -> nn.Module:
    """A module with linears of these paths and shapes, and no weights: all that writing a bundle needs."""
    root = _Skeleton()
    for linear in linears:
        *parents, name = linear.path.split(".")
        module: nn.Module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.add_module(name, nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta"))
    return root


class _Skeleton(nn.Module):
    dtype = torch.bfloat16
