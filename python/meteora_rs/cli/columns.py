"""Coloured text in columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

from meteora_rs.cli.colour import Palette


@dataclass(frozen=True)
class Cell:
    """Characters, each with the name whose colour it has."""

    characters: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, pieces: Iterable[tuple[str, str]]) -> Cell:
        """A cell from (text, name) pairs; line breaks become spaces, and both ends are stripped."""
        characters = [
            (" " if c.isspace() else c, name) for text, name in pieces for c in text if c.isprintable() or c.isspace()
        ]
        while characters and characters[-1][0] == " ":
            characters.pop()
        while characters and characters[0][0] == " ":
            characters.pop(0)
        return cls(tuple(characters))

    def wrap(self, width: int, lines: int) -> list[list[tuple[str, str]]]:
        """At most `lines` lines of at most `width` characters, broken at spaces; "…" where text is cut."""
        rest = list(self.characters)
        out: list[list[tuple[str, str]]] = []
        while rest:
            if len(out) == lines:
                last = out[-1][: width - 1]
                out[-1] = [*last, ("…", last[-1][1] if last else "")]
                break
            end = len(rest)
            if end > width:
                spaces = [i for i in range(1, width + 1) if rest[i][0] == " "]
                end = spaces[-1] if spaces else width
            out.append(rest[:end])
            rest = rest[end:]
            while rest and rest[0][0] == " ":
                rest.pop(0)
        return out


def side_by_side(cells: Sequence[Cell], width: int, palette: Palette, lines: int = 4) -> Iterator[str]:
    """Lines of `width` characters each in `len(cells)` columns."""
    column = max(8, width // len(cells) - 2)
    wrapped = [cell.wrap(column, lines) for cell in cells]
    for row in zip_longest(*wrapped, fillvalue=[]):
        yield "  ".join(_paint(line, palette) + " " * (column - len(line)) for line in row).rstrip()


def _paint(line: list[tuple[str, str]], palette: Palette) -> str:
    runs = groupby(line, key=lambda character: character[1])
    return "".join(palette.paint("".join(c for c, _ in run), name) for name, run in runs)
