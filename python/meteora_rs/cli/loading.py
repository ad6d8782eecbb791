"""Models and adapters, as the command line names them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import meteora_rs
from meteora_rs.attach import element_size
from meteora_rs.bundles.manifest import MANIFEST, read_manifest
from meteora_rs.config import LARGEST_POOL
from meteora_rs.errors import CapacityError, MeteoraError
from meteora_rs.samples import smollm2_path

Model: TypeAlias = Any
"""A causal language model of transformers, whose own types promise little."""

Tokenizer: TypeAlias = Any


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--model`."""
    parser.add_argument("--model", help="a model folder or hub id (default: SmolLM2-135M-Instruct, fetched once)")


def add_adapters_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--adapter`, which may be repeated."""
    parser.add_argument(
        "--adapter", "--adapters", action="append", dest="adapters", metavar="[NAME=]PATH", required=True,
        help="a bundle, or a PEFT folder or hub id (its last part is the name without NAME=); repeatable",
    )  # fmt: skip


def load_model(name: str | None) -> tuple[Model, Tokenizer]:
    """Return a model in fp32, ready to generate, and its tokenizer, which pads on the left.

    Raises:
        MeteoraError: transformers does not know this kind of model.
        OSError: it can't be fetched or read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    path = name or smollm2_path()
    quiet: Any = logging.disable_progress_bar
    quiet()  # reading takes a second or two; downloads keep their own bars
    # fp32 whatever the file holds: on a CPU bf16 prefills several times slower.
    try:
        model: Model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    except ValueError as error:
        raise MeteoraError(f"model {path}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def split_name(item: str) -> tuple[str, str]:
    """`NAME=PATH` as (name, path); without a name, the path's last part is the name."""
    name, equals, path = item.partition("=")
    return (name, path) if equals else (item.rstrip("/").rpartition("/")[2], item)


def is_bundle(path: str | Path) -> bool:
    """Whether `path` is a folder with a bundle's manifest."""
    return (Path(path) / MANIFEST).is_file()


def attach(model: Model, adapters: Sequence[str], named: Sequence[str] = ()) -> meteora_rs.Meteora:
    """Attach to `model` and load one bundle, or PEFT adapters with arrow gates, in pools as large as they need.

    Args:
        adapters: as `--adapter` takes them.
        named: PEFT adapters that gates never choose.

    Raises:
        MeteoraError: a bundle among several adapters.
        MeteoraError, OSError: as `attach_pretrained` and `load_adapter`.
    """
    bundle = next((path for path in adapters if is_bundle(path)), None)
    if bundle is not None and len(adapters) > 1:
        raise MeteoraError(f"{bundle} is a bundle, which is loaded alone; name its adapters by their own folders")
    config = meteora_rs.MeteoraConfig() if bundle is None else read_manifest(bundle).config_for(element_size(model))
    alone = adapters if bundle is None else ()
    config = replace(config, max_adapters=max(config.max_adapters, len(alone)) + len(named))
    while True:
        meteora = meteora_rs.attach_pretrained(model, bundle, config) if bundle else meteora_rs.attach(model, config)
        try:
            for item in alone:
                _load(meteora, item, "arrow")
            for item in named:
                _load(meteora, item, "none")
            return meteora
        except CapacityError:
            meteora.detach()
            if config.pool_rank == LARGEST_POOL:
                raise
        # How many rank rows an adapter takes is known when it has been read.
        config = replace(config, pool_rank=min(2 * config.pool_rank, LARGEST_POOL))


def _load(meteora: meteora_rs.Meteora, item: str, gate: str) -> None:
    name, path = split_name(item)
    meteora.load_adapter(path, adapter_name=name, gate=gate)
