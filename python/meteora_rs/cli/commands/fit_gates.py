"""Fit the gates of adapters on examples of their work, in closed form, and write a bundle.

    meteora fit-gates --adapter math=adapters/math --adapter law=adapters/law \\
        --texts math=math.jsonl --texts law=law.jsonl --out bundle --plot fit.png

A file of texts is JSON lines: a string, or an object with "text", or with "prompt" and "response". Some sixty
a class do. The base is a class of its own, which keeps general text free of adapters: from texts that come with
the package, or your own (--texts __base__=general.jsonl); --no-base leaves it out.
"""

from __future__ import annotations

import argparse

from meteora_rs.cli import gates_bundle
from meteora_rs.errors import MeteoraError

HELP = "fit gates on examples, write a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs.cli.arguments import positive

    gates_bundle.add_input_arguments(parser)
    parser.add_argument("--passes", type=positive, default=2, metavar="N", help="over the texts (default: 2)")
    parser.add_argument("--refine", action="store_true", help="better gates, in twice the time or more")
    parser.add_argument("--read", type=positive, default=3000, metavar="N", help="tokens of an adapter (default: 3000)")
    parser.add_argument("--memory-gib", type=positive, default=2, metavar="N", help="for statistics (default: 2)")
    gates_bundle.add_output_arguments(parser, "the report as a picture")


def run(args: argparse.Namespace) -> int:
    """Fit, save, and print what was reached."""
    meteora, tokenizer, data = gates_bundle.prepare(args)
    try:
        base = None if args.no_base else "general"
        report = meteora.fit_gates(
            data,
            base=base,
            tokenizer=tokenizer,
            passes=args.passes,
            refine=args.refine,
            read=args.read,
            memory_budget=args.memory_gib << 30,
        )
    except ValueError as error:  # too few classes or texts: the user's to mend
        raise MeteoraError(str(error)) from error
    gates_bundle.finish(args, meteora, report)
    return 0
