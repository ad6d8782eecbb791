"""What the commands that make gates share: texts for classes in, a bundle and a report out."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from meteora_rs.errors import MeteoraError

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora


class Report(Protocol):
    """What was reached: `print` shows it to people."""

    def to_dict(self) -> dict[str, Any]:
        """For programs."""

    def plot(self, path: str | Path) -> None:
        """As a picture."""


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its adapters, and texts for each class."""
    from meteora_rs.cli import loading
    from meteora_rs.cli.arguments import positive

    loading.add_model_argument(parser)
    loading.add_adapters_argument(parser)
    parser.add_argument("--texts", action="append", required=True, metavar="NAME=FILE", help="one for each class")
    parser.add_argument("--limit", type=positive, metavar="N", help="take the first N texts of each file")
    parser.add_argument("--no-base", action="store_true", help="no class for the base: every token gets adapters")


def add_output_arguments(parser: argparse.ArgumentParser, picture: str) -> None:
    """Where bundle and report go; `picture` says what --plot draws."""
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"write {picture} (needs matplotlib)")
    parser.add_argument("--out", type=Path, required=True, help="the bundle to write; an older one is replaced")


def prepare(args: argparse.Namespace) -> tuple[Meteora, Any, dict[str, Any]]:
    """The attached model with its adapters, the tokenizer, and the classes' texts.

    Raises:
        MeteoraError, OSError: --plot without matplotlib, or no bundle can be written to --out, before anything long
            begins; or what reading and loading raise.
    """
    from meteora_rs.bundles.save import check_target
    from meteora_rs.cli import loading, texts

    check_target(args.out)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.plot is not None and find_spec("matplotlib") is None:
        raise MeteoraError("--plot needs matplotlib: pip install 'meteora-rs[plot]'")
    data: dict[str, Any] = texts.read_classes(args.texts, args.limit)
    model, tokenizer = loading.load_model(args.model)
    return loading.attach(model, args.adapters), tokenizer, data


def finish(args: argparse.Namespace, meteora: Meteora, report: Report) -> None:
    """Write the bundle and the picture, and print what was reached."""
    meteora.save_pretrained(args.out)
    if args.plot is not None:
        report.plot(args.plot)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report)
        print(*(f"wrote {path}" for path in (args.out, args.plot) if path is not None), sep="\n")
