"""Measure speed as ratios to the base and to peers, in one run; needs a source checkout.

The arguments are those of `python -m benchmarks`; `meteora bench -- --help` lists them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

HELP = "speed as ratios to the base and to peers (source checkout)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for the benchmarks")


def run(args: argparse.Namespace) -> int:
    """Run the checkout's benchmarks in a process of their own, whose threads nothing here has touched."""
    from meteora_rs.cli import checkout

    root = checkout.folder("benchmarks").parent
    rest = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    return subprocess.run([sys.executable, "-m", "benchmarks", *rest], cwd=root, check=False).returncode
