"""The command line: `meteora <command>`; every module in `cli.commands` is a command."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from meteora_rs.cli import commands
from meteora_rs.errors import MeteoraError

FAILED = 2
INTERRUPTED = 130


class Command(Protocol):
    """What a module in `cli.commands` has; its name is the module's, with dashes."""

    HELP: str
    """One line for `meteora --help`; the module's docstring is the longer text."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit status; `MeteoraError` and `OSError` are printed by `main`."""


def discover() -> Iterator[tuple[str, Command]]:
    """Yield each command's name and module, in alphabetical order."""
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda m: m.name):
        loaded = importlib.import_module(f"{commands.__name__}.{module.name}")
        yield module.name.replace("_", "-"), cast(Command, loaded)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; `parse_args` sets `run` to the chosen command's function."""
    parser = argparse.ArgumentParser(
        prog="meteora", description="Many LoRA adapters on one model; each token chooses its own."
    )
    subparsers = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    for name, command in discover():
        sub = subparsers.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for an error (one line on stderr), 130 for Ctrl-C."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `meteora … | head`: point stdout elsewhere, or the exit prints a second error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (MeteoraError, OSError) as error:
        print(f"meteora: {one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("meteora: interrupted", file=sys.stderr)
        return INTERRUPTED


def one_line(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
