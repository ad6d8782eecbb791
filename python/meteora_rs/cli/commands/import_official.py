"""Turn a checkpoint of the MeteoRA authors', with the PEFT adapters that went into it, into a bundle.

meteora import-official llama3_8b_meteora/top_2 llama3_8b_peft/* --output bundle --top-k 2

CHECKPOINT is model.safetensors, the index of several files, or their folder. Every adapter of the checkpoint is
needed, in any order: which rows are whose is found by matching their weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from meteora_rs.errors import MeteoraError

HELP = "the authors' checkpoint and its adapters, as a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs import MeteoraConfig
    from meteora_rs.cli.arguments import positive

    default = MeteoraConfig()
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the whole model with its gates")
    parser.add_argument(
        "adapters", nargs="+", metavar="[NAME=]PATH",
        help="PEFT folders or hub ids; the path's last part is the name without NAME=",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, help="the bundle to write; an older one is replaced")
    parser.add_argument(
        "--top-k", type=positive, default=default.top_k, metavar="K",
        help=f"adapters a token; the checkpoint does not say (default: {default.top_k})",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=default.temperature, metavar="T",
        help=f"of the softmax over the chosen ones; the checkpoint does not say (default: {default.temperature:g})",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Import and print the order that was found."""
    from meteora_rs import MeteoraConfig, import_official
    from meteora_rs.cli.loading import split_name

    pairs = [split_name(item) for item in args.adapters]
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MeteoraError(f"two adapters are named {twice[0]!r}; give one another name with NAME=PATH")
    try:
        config = MeteoraConfig(top_k=args.top_k, temperature=args.temperature)
    except ValueError as error:
        raise MeteoraError(str(error)) from error
    order = import_official(args.checkpoint, dict(pairs), args.output, config=config)
    print(f"the checkpoint's order: {', '.join(order)}")
    print(f"wrote {args.output}")
    return 0
