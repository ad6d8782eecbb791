"""Colour on a terminal, where it is wanted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from meteora_rs.routes import BASE

# 256-colour codes, readable on dark and light grounds and told apart by colour-blind readers.
_CODES = (33, 208, 35, 170, 37, 160, 142, 99)


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--color`."""
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), nargs="?", const="always", default="auto",
        help="colour the output: auto (on a terminal, unless NO_COLOR is set), always, never",
    )  # fmt: skip


def wanted(choice: str) -> bool:
    """Whether to colour stdout: as `choice` says, and for `auto` on a terminal unless NO_COLOR is set."""
    if choice != "auto":
        return choice == "always"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class Palette:
    """A colour for each adapter; the base has none.

    Args:
        names: the adapters, in an order that fixes their colours.
        on: whether to colour at all; otherwise every text is returned as it is.
    """

    def __init__(self, names: Sequence[str], on: bool) -> None:
        self._codes = {name: _CODES[i % len(_CODES)] for i, name in enumerate(n for n in names if n != BASE)}
        self._on = on

    @property
    def on(self) -> bool:
        """Whether anything is coloured."""
        return self._on

    def paint(self, text: str, name: str) -> str:
        """`text` in the colour of the adapter `name`; the base and unknown names stay plain."""
        code = self._codes.get(name)
        return f"\x1b[1;38;5;{code}m{text}\x1b[0m" if self._on and code is not None and text else text

    def bold(self, text: str) -> str:
        """`text` in bold."""
        return f"\x1b[1m{text}\x1b[0m" if self._on else text

    def dim(self, text: str) -> str:
        """`text` in grey."""
        return f"\x1b[2m{text}\x1b[0m" if self._on else text
