"""Inline SVG: bars with whiskers, a heat map, stacked columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from meteora_rs.routes import BASE

from .results import Score

_PALETTE = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99", "#99507a", "#aaaa00",
    "#77aadd", "#bb5566", "#117733", "#ddaa33", "#004488", "#cc6677",
)  # fmt: skip
_GREY = "#bbbbbb"
_GLYPH = 7.5
"""Width of a character of 12 pixels in a wide font: labels get the room that they need."""


class Colours:
    """A colour for each name, in order; the base is grey."""

    def __init__(self, names: Sequence[str]) -> None:
        self._of = {name: _PALETTE[place % len(_PALETTE)] for place, name in enumerate(names)}
        for name in {BASE, "base"} & set(self._of):
            self._of[name] = _GREY

    def __getitem__(self, name: str) -> str:
        return self._of[name]

    def legend(self) -> str:
        """The names beside their colours."""
        items = "".join(f'<span><i style="background:{c}"></i>{escape(_say(n))}</span>' for n, c in self._of.items())
        return f'<p class="legend">{items}</p>'


def bars(rows: Sequence[tuple[str, Mapping[str, Score]]], colours: Colours) -> str:
    """A group of horizontal bars for each row, on a scale from 0 to 100%."""
    left, width, bar, gap = _room(label for label, _ in rows), 560, 14, 12
    parts, y = [], 20
    for percent in range(0, 101, 20):
        x = left + width * percent / 100
        parts.append(f'<text x="{x}" y="12" text-anchor="middle" fill="#666">{percent}</text>')
    for label, scores in rows:
        middle = y + bar * len(scores) / 2 + 4
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape(label)}</text>')
        for name, score in scores.items():
            low, high = (left + width * _share(each) for each in (score.low, score.high))
            line = y + bar / 2
            parts.append(
                f'<rect x="{left}" y="{y + 1}" width="{width * _share(score.value):.1f}" height="{bar - 2}" '
                f'fill="{colours[name]}"><title>{escape(name)}: {score.value:.1%}</title></rect>'
                f'<path d="M{low:.1f} {line}H{high:.1f}M{low:.1f} {line - 3}v6M{high:.1f} {line - 3}v6" '
                'stroke="#222" fill="none"/>'
            )
            y += bar
        y += gap
    return _svg(left + width + 20, y, parts)


def heat_map(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> str:
    """Shares as shades with their percentages; a row sums to 100."""
    left, slanted, cell, height = _room(rows), _room(map(_say, columns)), 44, 24
    top = 0.77 * slanted + 12
    parts = []
    for place, name in enumerate(columns):
        x = left + cell * place + cell / 2
        parts.append(f'<text transform="translate({x:.1f} {top - 6}) rotate(-50)">{escape(_say(name))}</text>')
    for number, (row, shares) in enumerate(rows.items()):
        y = top + height * number
        parts.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{escape(row)}</text>')
        for place, name in enumerate(columns):
            share = _share(shares.get(name, 0.0))
            x, ink = left + cell * place, "#fff" if share > 0.5 else "#222"
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{height - 1}" fill="#1f5a96" '
                f'fill-opacity="{share:.3f}" stroke="#ddd"><title>{escape(row)}, {escape(name)}: {share:.1%}</title>'
                f'</rect><text x="{x + cell / 2}" y="{y + 16}" text-anchor="middle" fill="{ink}">'
                f"{share * 100:.0f}</text>"
            )
    return _svg(left + cell * len(columns) + 0.64 * slanted, top + height * len(rows) + 6, parts)


def stacks(columns: Sequence[Mapping[str, float]], colours: Colours) -> str:
    """Columns of shares, stacked."""
    width, height = 40, 160
    parts = []
    for place, shares in enumerate(columns):
        y = 0.0
        for name, share in sorted(shares.items()):
            parts.append(
                f'<rect x="{width * place}" y="{y * height:.1f}" width="{width - 1}" height="{share * height:.1f}" '
                f'fill="{colours[name]}"><title>{escape(_say(name))}: {share:.0%}</title></rect>'
            )
            y += share
    for x, anchor, text in ((0, "start", "start"), (width * len(columns), "end", "end of the answers")):
        parts.append(f'<text x="{x}" y="{height + 16}" text-anchor="{anchor}" fill="#666">{text}</text>')
    return _svg(width * len(columns), height + 22, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-size="12" font-family="system-ui, sans-serif">{"".join(parts)}</svg>'
    )


def _room(labels: Iterable[str]) -> float:
    return _GLYPH * max(map(len, labels), default=0) + 12


def _share(value: float) -> float:
    return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0


def _say(name: str) -> str:
    return "the base" if name == BASE else name
