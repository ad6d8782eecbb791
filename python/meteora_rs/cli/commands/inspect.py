"""Say what a PEFT folder or a bundle is, whether it loads on a model, on which linears, and if not, why.

    meteora inspect adapters/math --model my-llama
    meteora inspect examples/bundle --json

Only the model's config is read. The exit status is 0 if everything loads, 1 if something does not.
"""

from __future__ import annotations

import argparse
import json

HELP = "does this adapter or bundle load, on which linears, and if not, why"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("path", help="a PEFT folder, a hub id, or a bundle")
    parser.add_argument("--model", help="a model folder or hub id, its config alone (default: SmolLM2-135M's shapes)")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Print the finding."""
    from meteora_rs.cli.inspection import inspect_path

    finding = inspect_path(args.path, args.model)
    if args.json:
        print(json.dumps(finding.as_dict(), indent=2, ensure_ascii=False))
    else:
        print("\n".join(finding.lines()))
    return 0 if finding.loads else 1
