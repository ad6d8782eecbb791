"""Fit the gates of adapters on examples of their work, in closed form, and write a bundle.

    meteora fit-gates --adapter math=adapters/math --adapter law=adapters/law \\
        --texts math=math.jsonl --texts law=law.jsonl --texts __base__=general.jsonl --out bundle

A file of texts is JSON lines: a string, or an object with "text", or with "prompt" and "response". Some sixty
a class do. With __base__ the base becomes a class of its own, which keeps general text free of adapters.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from meteora_rs.errors import MeteoraError

HELP = "fit gates on examples, write a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs.cli import loading
    from meteora_rs.cli.commands.generate import positive

    loading.add_model_argument(parser)
    loading.add_adapters_argument(parser)
    parser.add_argument("--texts", action="append", required=True, metavar="NAME=FILE", help="one for each class")
    parser.add_argument("--limit", type=positive, metavar="N", help="take the first N texts of each file")
    parser.add_argument("--passes", type=positive, default=2, metavar="N", help="over the texts (default: 2)")
    parser.add_argument("--out", type=Path, required=True, help="the bundle to write; an older one is replaced")


def run(args: argparse.Namespace) -> int:
    """Fit, save, and print what was reached."""
    from meteora_rs.cli import loading, texts

    data: dict[str, Any] = texts.read_classes(args.texts, args.limit)
    model, tokenizer = loading.load_model(args.model)
    meteora = loading.attach(model, args.adapters)
    try:
        report = meteora.fit_gates(data, tokenizer=tokenizer, passes=args.passes)
    except ValueError as error:  # too few classes or texts: the user's to mend
        raise MeteoraError(str(error)) from error
    print(report)
    meteora.save_pretrained(args.out)
    print(f"wrote {args.out}")
    return 0
