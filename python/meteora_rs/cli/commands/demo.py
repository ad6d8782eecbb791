"""Answer one mixed batch of prompts on four adapters, three ways, and compare the speed with the base alone.

Each prompt is answered with Auto() (each token chooses its adapters by itself), with the adapter of its task
by name, and by the base model, side by side; each token has the colour of the adapter that served it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "routed text from four adapters on a small model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs.cli import colour, loading
    from meteora_rs.cli.arguments import positive

    loading.add_model_argument(parser)
    parser.add_argument(
        "--examples", type=Path, help="a folder with bundle/ and prompts.json (default: the checkout's)"
    )
    parser.add_argument("--all", action="store_true", help="all prompts, not only the first of each kind")
    parser.add_argument("--max-new-tokens", type=positive, default=24, metavar="N")
    parser.add_argument("--no-speed", action="store_true", help="leave out the comparison of speed")
    colour.add_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from meteora_rs.cli import checkout, colour
    from meteora_rs.cli.demonstration import Demonstration
    from meteora_rs.cli.prompts import read_examples

    folder = args.examples or checkout.folder("examples")
    examples = read_examples(folder / "prompts.json", first_of_each=not args.all)
    demonstration = Demonstration(args.model, folder / "bundle", colour.wanted(args.color))
    demonstration.answer(examples, args.max_new_tokens)
    if not args.no_speed:
        demonstration.compare_speed(examples)
    return 0
