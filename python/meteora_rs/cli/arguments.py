"""What options take: routes, and numbers."""

from __future__ import annotations

import argparse

from meteora_rs.errors import RouteError
from meteora_rs.routes import BASE, Auto, Mix, Route

SYNTAX = "auto | auto:NAME,NAME | NAME | NAME=WEIGHT,NAME=WEIGHT | base"


def parse_route(text: str) -> Route:
    """Return the route that `text` names: see `SYNTAX`.

    Raises:
        argparse.ArgumentTypeError: it names none.
    """
    try:
        if text == "auto":
            return Auto()
        if text.startswith("auto:"):
            return Auto(only=[name for name in text.removeprefix("auto:").split(",") if name])
        if "=" in text:
            pairs = (pair.partition("=") for pair in text.split(","))
            return Mix({name: float(weight) for name, _, weight in pairs})
    except (RouteError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no route ({error}); a route is {SYNTAX}") from error
    if not text:
        raise argparse.ArgumentTypeError(f"an empty route; a route is {SYNTAX}")
    return BASE if text in ("base", BASE) else text


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
