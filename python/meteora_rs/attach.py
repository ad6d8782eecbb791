"""`attach`: from a stock Hugging Face model to one whose tokens choose their adapters."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from meteora_rs import _native
from meteora_rs.attached.linear import AttachedLinear
from meteora_rs.attached.patch import Patch
from meteora_rs.config import MeteoraConfig
from meteora_rs.errors import MeteoraError
from meteora_rs.meteora import Meteora
from meteora_rs.sites.architecture import find_sites


def attach(model: nn.Module, config: MeteoraConfig | None = None) -> Meteora:
    """Make every linear of `model`'s decoder layers a site of routed adapters; the model stays the model.

    Without adapters its outputs are bit for bit what they were; its `state_dict`, types and `generate` stay.

    Args:
        model: a LLaMA-type model of transformers (anything with `nn.Linear`s under `…layers.<n>.…`).
        config: sizes and defaults.

    Raises:
        TypeError: `model` is no module, or `config` no `MeteoraConfig`.
        MeteoraError: already attached, wrapped by PEFT, or nothing to attach to.
        OSError: there is no folder `config.adapter_root`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    config = _checked(config) or MeteoraConfig()
    if any(isinstance(module, AttachedLinear) for module in model.modules()):
        raise MeteoraError(
            "the model is attached already; load more adapters with the Meteora that attach() returned, or detach() it"
        )
    infos = find_sites(model)
    linears = [model.get_submodule(info.path) for info in infos]
    size = element_size(model)
    shapes = [
        (info.path, int(linear.in_features), int(linear.out_features), info.layer)  # type: ignore[arg-type]
        for info, linear in zip(infos, linears, strict=True)
    ]
    pool_rank = -(-config.pool_rank // 8) * 8  # whole pages
    root = None if config.adapter_root is None else os.fspath(config.adapter_root)
    registry = _native.Registry(config.max_adapters, pool_rank, size, shapes, asdict(config.limits), root)
    patch = Patch(model, infos, registry, config)
    patch.install()
    return Meteora(patch, registry, config, size)


def _checked(config: MeteoraConfig | None) -> MeteoraConfig | None:
    if config is None or isinstance(config, MeteoraConfig):
        return config
    raise TypeError(f"config must be a MeteoraConfig or None, not {type(config).__name__}")


def element_size(model: nn.Module) -> int:
    """Bytes of the model's elements, in which rank rows are counted."""
    dtype: torch.dtype = getattr(model, "dtype", torch.float32)
    return dtype.itemsize


def attach_pretrained(model: nn.Module, folder: str | Path, config: MeteoraConfig | None = None) -> Meteora:
    """Attach and load a bundle that `Meteora.save_pretrained` wrote; on any error the model is as it was.

    Args:
        model: the model that the bundle was made for (same sites and shapes).
        folder: the bundle.
        config: instead of the bundle's own, for larger pools, say. The bundle's own has more rank rows where the
            model's elements are narrower than those of the model that it was saved from.

    Raises:
        AdapterFormatError: not a bundle, another format version, another model's shape, or a hash that differs; or the
            bundle was replaced meanwhile.
        TypeError: as `attach`.
        OSError: a file can't be read. Others as `attach` and `load_adapter`.
    """
    from meteora_rs.bundles.load import load_bundle
    from meteora_rs.bundles.manifest import read_manifest

    config = _checked(config)
    manifest = read_manifest(folder)
    meteora = attach(model, config or manifest.config_for(element_size(model)))
    try:
        load_bundle(meteora, folder, manifest)
    except BaseException:
        meteora.detach()
        raise
    return meteora
