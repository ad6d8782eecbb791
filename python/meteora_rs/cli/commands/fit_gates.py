"""Fit the gates of adapters on examples of their work, in closed form, and write a bundle.

    meteora fit-gates --adapter math=adapters/math --adapter law=adapters/law \\
        --texts math=math.jsonl --texts law=law.jsonl --out bundle --plot fit.png

A file of texts is JSON lines: a string, or an object with "text", or with "prompt" and "response". Some sixty
a class do. The base is a class of its own, which keeps general text free of adapters: from texts that come with
the package, or your own (--texts __base__=general.jsonl); --no-base leaves it out.
"""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
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
    parser.add_argument("--no-base", action="store_true", help="no class for the base: every token gets adapters")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the report as a picture (needs matplotlib)")
    parser.add_argument("--out", type=Path, required=True, help="the bundle to write; an older one is replaced")


def run(args: argparse.Namespace) -> int:
    """Fit, save, and print what was reached."""
    from meteora_rs.cli import loading, texts

    if args.plot is not None and find_spec("matplotlib") is None:
        raise MeteoraError("--plot needs matplotlib: pip install 'meteora-rs[plot]'")
    data: dict[str, Any] = texts.read_classes(args.texts, args.limit)
    model, tokenizer = loading.load_model(args.model)
    meteora = loading.attach(model, args.adapters)
    try:
        base = None if args.no_base else "general"
        report = meteora.fit_gates(data, base=base, tokenizer=tokenizer, passes=args.passes)
    except ValueError as error:  # too few classes or texts: the user's to mend
        raise MeteoraError(str(error)) from error
    meteora.save_pretrained(args.out)
    if args.plot is not None:
        report.plot(args.plot)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report)
        print(*(f"wrote {path}" for path in (args.out, args.plot) if path is not None), sep="\n")
    return 0
