"""Answer a folder of tasks in several ways and compare: the base, each task's own adapter, the gates' choice.

meteora evaluate TASKS --adapters bundle --limit 40 --out evaluation
meteora evaluate TASKS --adapters bundle --variant own --variant k=1 --variant k=2 --variant arrow --variant uniform
meteora evaluate TASKS --adapters bundle --only math --variant own --variant auto --variant math=0.5,law=0.5

TASKS is a folder with <task>/test.jsonl, one {"prompt": …, "response": …} a line. A task's own adapter is the one of
its name. Answers are kept in the folder of --out, so that an evaluation can be stopped, resumed, and added to.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from meteora_rs.errors import MeteoraError

if TYPE_CHECKING:
    from meteora_rs.evaluate import Variant

HELP = "score base, own adapters and gates on a folder of tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs.cli import loading
    from meteora_rs.cli.arguments import SYNTAX, positive

    parser.add_argument("tasks", type=Path, metavar="TASKS", help="a folder of tasks")
    loading.add_model_argument(parser)
    loading.add_adapters_argument(parser)
    parser.add_argument(
        "--named", action="append", default=[], metavar="NAME=PATH",
        help="one more adapter, which gates never choose: one trained on all tasks, say; repeatable",
    )  # fmt: skip
    parser.add_argument("--only", action="append", metavar="TASK", help="this task (default: all); repeatable")
    parser.add_argument("--limit", type=positive, metavar="N", help="take the first N items of each task")
    parser.add_argument(
        "--variant", action="append", metavar="VARIANT",
        help=f"own | k=N (gates, N adapters a token) | arrow | uniform (all, equal weights) | {SYNTAX}; "
        "repeatable (default: base, own, auto)",
    )  # fmt: skip
    parser.add_argument(
        "--metric", action="append", default=[], metavar="TASK=NAME[,NAME]",
        help="instead of the paper's, or exact match where the paper has none; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--max-new-tokens", action="append", default=[], metavar="[TASK=]N",
        help="tokens for each question (default: 64), or for a task's whole answers; repeatable",
    )  # fmt: skip
    parser.add_argument("--batch-tokens", type=positive, default=4096, metavar="N", help="of a batch (default: 4096)")
    parser.add_argument("--loss", action="store_true", help="also the language-model loss on the responses")
    parser.add_argument(
        "--complete", action="store_true",
        help="answers to composites can't end before their last question: an end before is read as a line break",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="a folder for answers, report.json and report.html")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    from meteora_rs.cli import loading
    from meteora_rs.evaluate import evaluate, read_tasks

    tasks = read_tasks(args.tasks, args.only, limit=args.limit, metrics=_metrics(args.metric))
    tokens, task_tokens = _token_limits(args.max_new_tokens)
    if unknown := sorted(set(task_tokens) - {task.name for task in tasks}):
        raise MeteoraError(f"--max-new-tokens {unknown[0]}=…: no such task in this evaluation")
    model, tokenizer = loading.load_model(args.model)
    meteora = loading.attach(model, args.adapters, args.named)
    report = evaluate(
        meteora,
        tasks,
        args.out,
        tokenizer=tokenizer,
        variants=variants(args.variant or ["base", "own", "auto"], [r.name for r in meteora.adapters() if r.routable]),
        max_new_tokens=tokens,
        task_max_new_tokens=task_tokens,
        batch_tokens=args.batch_tokens,
        loss=args.loss,
        complete=args.complete,
    )
    print(report)
    print(f"wrote {args.out / 'report.json'} and {args.out / 'report.html'}")
    return 0


def variants(texts: Sequence[str], adapters: Sequence[str]) -> dict[str, Variant]:
    """Variants by the text that names them; `adapters` are those that the gates choose from.

    Raises:
        MeteoraError: a text names none.
    """
    return {text: _variant(text, adapters) for text in texts}


def _variant(text: str, adapters: Sequence[str]) -> Variant:
    from meteora_rs import Mix
    from meteora_rs.cli.arguments import parse_route
    from meteora_rs.evaluate import OWN, Gates

    if text == "own":
        return OWN
    if text == "arrow":
        return Gates(arrow=True)
    if top_k := re.fullmatch(r"k=([1-9]\d*)", text):
        return Gates(top_k=int(top_k[1]))
    if text == "uniform" and adapters:
        return Mix({name: 1 / len(adapters) for name in adapters})
    try:
        return parse_route(text)
    except argparse.ArgumentTypeError as error:
        raise MeteoraError(f"--variant: {error}, own, k=N, arrow or uniform") from error


def _metrics(items: Sequence[str]) -> dict[str, list[str]]:
    found = {}
    for item in items:
        task, equals, names = item.partition("=")
        if not equals or not names:
            raise MeteoraError(f"--metric {item!r}: expected TASK=NAME[,NAME]")
        found[task] = names.split(",")
    return found


def _token_limits(items: Sequence[str]) -> tuple[int, dict[str, int]]:
    from meteora_rs.cli.arguments import positive

    every, tasks = 64, {}
    for item in items:
        task, equals, number = item.rpartition("=")
        try:
            count = positive(number)
        except argparse.ArgumentTypeError as error:
            raise MeteoraError(f"--max-new-tokens {item!r}: {error}") from error
        if equals:
            tasks[task] = count
        else:
            every = count
    return every, tasks
