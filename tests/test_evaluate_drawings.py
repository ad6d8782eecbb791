"""Pictures have room for their labels, in whatever font they are shown."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from meteora_rs.evaluate.drawings import Colours, bars, heat_map, stacks
from meteora_rs.evaluate.results import Score

LONG = "reasoning_about_colored_objects_of_any_kind"
WIDE = 7.3
"""Of a character of 12 pixels, DejaVu Sans, which is wider than most."""

NUMBERS = {LONG: {"math": 0.7, LONG: 0.3}, "law": {"math": 1.0}}
DRAWN = {
    "bars": bars([(name, {"own": Score(0.5, 0.4, 1.0)}) for name in NUMBERS], Colours(["own"])),
    "heat map": heat_map(NUMBERS, ["math", LONG]),
    "stacks": stacks([*NUMBERS.values()] * 10, Colours(["math", LONG])),
}


@pytest.mark.parametrize("name", DRAWN)
def test_labels_fit(name: str) -> None:
    picture = ElementTree.fromstring(DRAWN[name])
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for label in picture.iterfind("{*}text"):
        length = WIDE * len(label.text or "")
        if turned := label.get("transform"):
            x, y = map(float, turned.removeprefix("translate(").partition(")")[0].split())
            assert x + length * math.cos(math.radians(50)) <= width and y - length * math.sin(math.radians(50)) >= 0
            continue
        x = float(label.attrib["x"]) - {"start": 0, "middle": 0.5, "end": 1}[label.attrib["text-anchor"]] * length
        assert x >= 0 and x + length <= width and float(label.attrib["y"]) <= height
