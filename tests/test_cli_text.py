"""The pieces of the command line that need no model."""

import argparse
import json
from pathlib import Path

import pytest
from meteora_rs import BASE, Auto, Mix
from meteora_rs.cli import build_parser, colour, discover, main
from meteora_rs.cli.arguments import parse_route
from meteora_rs.cli.colour import Palette
from meteora_rs.cli.columns import Cell, side_by_side
from meteora_rs.cli.loading import split_name
from meteora_rs.cli.prompts import read_examples
from meteora_rs.cli.texts import read_texts
from meteora_rs.errors import MeteoraError

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize(
    "text, route",
    [
        ("auto", Auto()),
        ("auto:math,law", Auto(only=["math", "law"])),
        ("math", "math"),
        ("math=0.7,law=.3", Mix({"math": 0.7, "law": 0.3})),
        ("base", BASE),
        (BASE, BASE),
    ],
)
def test_routes(text: str, route: object) -> None:
    assert parse_route(text) == route


@pytest.mark.parametrize("text", ["", "auto:", "math=much", "math=-1", "math=nan"])
def test_bad_routes_say_what_a_route_is(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"a route is auto \|"):
        parse_route(text)


def test_names_of_adapters() -> None:
    assert split_name("law=x/y") == ("law", "x/y")
    assert split_name("x/y/") == ("y", "x/y/")


@pytest.mark.parametrize("name", [name for name, _ in discover()])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        build_parser().parse_args([name, "--help"])
    assert exit_.value.code == 0
    assert "usage: meteora" in capsys.readouterr().out


@pytest.mark.parametrize("error, status", [(MeteoraError("a\nb"), 2), (OSError("a b"), 2), (KeyboardInterrupt(), 130)])
def test_errors_are_one_line(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("meteora_rs.cli.commands.doctor.run", fail)
    assert main(["doctor"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("meteora: interrupted\n" if status == 130 else "meteora: a b\n")


def test_colour_is_off_unless_a_terminal_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not colour.wanted("auto")
    assert colour.wanted("always")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert colour.wanted("auto")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not colour.wanted("auto")


def test_columns_wrap_and_keep_their_widths() -> None:
    plain = Palette([], False)
    left, right = Cell.of([("one two", ""), (" three", "")]), Cell.of([("x" * 30, "")])
    lines = list(side_by_side([left, right], 24, plain, lines=2))
    assert lines == ["one two     xxxxxxxxxx", "three       xxxxxxxxx…"]


def test_each_token_has_its_colour() -> None:
    palette = Palette(["math", "law"], True)
    (line,) = side_by_side([Cell.of([("2", "math"), ("+", "law"), ("2", BASE)])], 20, palette)
    assert line.startswith(palette.paint("2", "math") + palette.paint("+", "law") + "2")
    assert palette.paint("2", "math") != palette.paint("2", "law")


def test_texts_in_all_forms(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('"one"\n\n{"text": "two"}\n{"prompt": "p", "response": "r"}\n')
    assert read_texts(file) == ["one", "two", ("p", "r")]
    assert read_texts(file, 1) == ["one"]
    file.write_text('"one"\n{"prompt": "p"}\n')
    with pytest.raises(MeteoraError, match="line 2"):
        read_texts(file)
    file.write_text('"one\u2028two\x85three"\n', encoding="utf-8")
    assert read_texts(file) == ["one\u2028two\x85three"], "only a newline ends a line of JSON"


def test_the_shipped_examples_are_well_formed() -> None:
    first, every = (read_examples(EXAMPLES / "prompts.json", first_of_each=each) for each in (True, False))
    assert [example.group for example in first] == list(dict.fromkeys(example.group for example in every))
    assert {example.group for example in first} >= {"object_counting", "general", "two adapters in turn"}
    assert max(len(example.turns) for example in first) == 2
    assert "canary GUID" in json.loads((EXAMPLES / "prompts.json").read_text())["canary"]
