"""What `meteora demo` shows."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import meteora_rs
from meteora_rs.cli.answers import Answer, Speaker
from meteora_rs.cli.colour import Palette
from meteora_rs.cli.columns import Cell, side_by_side
from meteora_rs.cli.loading import load_model
from meteora_rs.cli.prompts import Example, Turn
from meteora_rs.cli.speed import tokens_per_second
from meteora_rs.routes import BASE, Auto, Route

WAYS: tuple[tuple[str, Callable[[Turn], Route]], ...] = (
    ("Auto(): each token chooses", lambda turn: Auto()),
    ("its own adapter, by name", lambda turn: turn.adapter),
    ("the base model", lambda turn: BASE),
)
SPEED_TOKENS = 24
MARKS = re.compile(r"\[/?INST\]|<\|im_(?:start|end)\|>(?:user|assistant)?")
"""What prompt formats put around the words of a prompt."""


class Demonstration:
    """A model with a bundle attached, and the terminal to show it on; construction loads and says so."""

    def __init__(self, model: str | None, bundle: Path, colour: bool) -> None:
        self._width = min(shutil.get_terminal_size((110, 24)).columns, 150)
        print("meteora-rs: many LoRA adapters on one model; each token chooses its own, layer by layer.")
        _step("Loading the model")
        self._model, self._tokenizer = load_model(model)
        _step("Attaching, and loading the adapters and their gates")
        started = time.perf_counter()
        self._meteora = meteora_rs.attach_pretrained(self._model, bundle)
        seconds = time.perf_counter() - started
        names = [adapter.name for adapter in self._meteora.adapters()]
        self._palette = Palette(names, colour)
        print(f"    {len(names)} adapters in {seconds:.2f} s: {self._legend(names)}")

    def answer(self, examples: Sequence[Example], max_new_tokens: int) -> None:
        """Answer all examples in one batch, once for each way, and print the answers side by side."""
        columns: list[list[list[Answer]]] = []
        for label, route in WAYS:
            _step(f"One batch of {len(examples)} prompts; {label}")
            columns.append(self._converse(examples, route, max_new_tokens))
        print()
        headings = [Cell.of([(label, "")]) for label, _ in WAYS]
        print(self._palette.bold("\n".join(side_by_side(headings, self._width, self._palette))))
        for index, example in enumerate(examples):
            for number, turn in enumerate(example.turns):
                self._print_turn(example, number, turn, [column[index][number] for column in columns])

    def compare_speed(self, examples: Sequence[Example]) -> None:
        """Print tokens a second with `Auto()` as a ratio to the same model without meteora-rs; detaches."""
        _step("Speed: the same batch with Auto(), then detached, the stock model alone")
        prompts = [example.turns[0].prompt for example in examples]
        routed = tokens_per_second(self._model, self._tokenizer, prompts, SPEED_TOKENS)
        self._meteora.detach()
        base = tokens_per_second(self._model, self._tokenizer, prompts, SPEED_TOKENS)
        print(f"    Auto() {routed:.1f}, base alone {base:.1f} tokens/s: {routed / base:.2f} of its speed")

    def _converse(
        self, examples: Sequence[Example], route: Callable[[Turn], Route], max_new_tokens: int
    ) -> list[list[Answer]]:
        texts, answers = [""] * len(examples), [[] for _ in examples]  # type: list[str], list[list[Answer]]
        speaker = Speaker(self._model, self._tokenizer, self._meteora)
        for number in range(max(len(example.turns) for example in examples)):
            rows = [row for row, example in enumerate(examples) if number < len(example.turns)]
            for row in rows:
                texts[row] += examples[row].turns[number].prompt
            routes = [route(examples[row].turns[number]) for row in rows]
            asked = [texts[row] for row in rows]
            batch = speaker.answer(asked, routes, max_new_tokens)
            for row, answer in zip(rows, batch, strict=True):
                answers[row].append(answer)
                texts[row] += f"{answer.text}\n"
        return answers

    def _print_turn(self, example: Example, number: int, turn: Turn, answers: Sequence[Answer]) -> None:
        step = f", turn {number + 1}" if len(example.turns) > 1 else ""
        prompt = Cell.of([(MARKS.sub("", turn.prompt), "")])
        print("\n" + self._palette.bold(f"▸ {example.group}{step}"))
        for line in side_by_side([prompt], self._width - 4, self._palette, lines=6):
            print("  " + self._palette.dim(line))
        cells = []
        for answer in answers:
            right = answer.text == (answers[-1].text if turn.expected is None else turn.expected)
            said = Cell.of(zip(answer.pieces, answer.leaders, strict=True))
            cells.append(Cell((("✓", ""), (" ", ""), *said.characters)) if right else said)
        for line in side_by_side(cells, self._width, self._palette):
            print(line)
        print(self._palette.dim(f"Auto() was served by {_shares(answers[0])}"))

    def _legend(self, names: Sequence[str]) -> str:
        if not self._palette.on:
            return ", ".join(names)
        return ", ".join(self._palette.paint(name, name) for name in names) + ", plain: the base"


def _shares(answer: Answer) -> str:
    parts = [f"{name.replace(BASE, 'the base')} {share:.0%}" for name, share in answer.shares.items() if share >= 0.05]
    return ", ".join(parts) or "nobody: it said nothing"


def _step(text: str) -> None:
    print(f"==> {text}", flush=True)
