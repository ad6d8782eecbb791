"""Auto against each task's own adapter, on answers: accuracy and loss, beside other ways to choose.

    python -m benchmarks.evaluation --tasks TASKS --adapters ADAPTERS --folder ANSWERS               # what needs no fit
    python -m benchmarks.evaluation --tasks TASKS --adapters ADAPTERS --folder ANSWERS --bundle BUNDLE

TASKS and ADAPTERS as for `benchmarks.routing`; ANSWERS keeps the answers, so that a run can be stopped, resumed and
added to. Ways to answer: `own` (the task's own adapter), `base`, `k=1` and `k=2` (the bundle's gates), `arrow`
(zero-shot gates, k = 1), `uniform` (all adapters with the same weight) and `request` (one adapter for each prompt, see
`benchmarks.request_level`). An answer may take as many tokens as the task's longest reference and a quarter more.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from meteora_rs import BASE, Meteora, Mix
from meteora_rs.cli.loading import attach, load_model
from meteora_rs.cli.texts import read_texts
from meteora_rs.evaluate import OWN, Chosen, Gates, Report, Task, Variant, evaluate, read_tasks
from meteora_rs.evaluate.results import Score

from benchmarks.request_level import choose
from benchmarks.written import write

WITHOUT_FIT = "own,base,request,arrow,uniform"
WITH_FIT = "own,base,k=1,k=2,request,arrow,uniform"


def limits(data: Path, names: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """How many tokens an answer may take: the longest reference's of the whole task, a quarter more, and four."""
    tasks = read_tasks(data, names)
    longest = {task.name: max(len(tokenizer(item.response)["input_ids"]) for item in task.items) for task in tasks}
    return {name: count * 5 // 4 + 4 for name, count in longest.items()}


def variants(names: Sequence[str], meteora: Meteora, tokenizer: Any, tasks: Sequence[Task], data: Path) -> Any:
    """The ways of answering by name; for `request` also the share of prompts that go to their own adapter."""
    adapters = [record.name for record in meteora.adapters()]
    ways: dict[str, Variant] = {
        "own": OWN,
        "base": BASE,
        "k=1": Gates(top_k=1),
        "k=2": Gates(top_k=2),
        "arrow": Gates(top_k=1, arrow=True),
        "uniform": Mix({name: 1 / len(adapters) for name in adapters}),
    }
    right = None
    if "request" in names:
        known = {name: [text[0] for text in read_texts(data / name / "train.jsonl", 60)] for name in adapters}
        prompts = [item.prompt for task in tasks for item in task.items]
        chosen = choose(meteora, tokenizer, known, prompts)
        ways["request"] = Chosen(chosen)
        right = {task.name: sum(chosen[i.prompt] == task.name for i in task.items) / len(task.items) for task in tasks}
        print("prompts that one choice a request sends to their own adapter:", right, flush=True)
    return {name: ways[name] for name in names}, right


def numbers(scores: Mapping[str, Score]) -> dict[str, list[float]]:
    """`[value, low, high]` of each, with 95% bootstrap intervals."""
    return {name: [round(each, 4) for each in (s.value, s.low, s.high)] for name, s in scores.items()}


def told(report: Report) -> dict[str, Any]:
    """The report's numbers, by task and variant."""
    tasks = {
        task.name: {
            "items": task.items,
            "metric": task.metrics[0],
            "score": numbers({name: scores[task.metrics[0]] for name, scores in task.scores.items()}),
            "ratio_to_own": numbers(task.ratios),
            "loss": numbers(task.losses),
            "served": {
                name: {who: round(share, 3) for who, share in shares.items() if share >= 0.005}
                for name, shares in task.served.items()
            },
        }
        for task in report.tasks
    }
    whole = {"score": report.means, "ratio_to_own": report.ratios, "loss": report.losses}
    return {"mean": {name: numbers(scores) for name, scores in whole.items()}, "tasks": tasks}


def main() -> None:
    """Answer, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="with fitted gates, for k=1 and k=2")
    parser.add_argument("--folder", type=Path, required=True, help="where answers are kept")
    parser.add_argument("--names", help="tasks (default: every adapter's)")
    parser.add_argument("--variants", help=f"default: {WITHOUT_FIT}, or with --bundle {WITH_FIT}")
    parser.add_argument("--items", type=int, default=200, help="test items of each task (default: 200)")
    parser.add_argument("--out", type=Path, help="default: results/evaluation-<date>.json")
    args = parser.parse_args()

    model, tokenizer = load_model(None)
    folders = [args.bundle] if args.bundle else sorted(path for path in args.adapters.iterdir() if path.is_dir())
    meteora = attach(model, [str(folder) for folder in folders])
    tasks = read_tasks(
        args.tasks, args.names.split(",") if args.names else [r.name for r in meteora.adapters()], limit=args.items
    )
    names = (args.variants or (WITHOUT_FIT if args.bundle is None else WITH_FIT)).split(",")
    ways, right = variants(names, meteora, tokenizer, tasks, args.tasks)
    report = evaluate(
        meteora, tasks, args.folder, tokenizer=tokenizer, variants=ways, loss=True,
        task_max_new_tokens=limits(args.tasks, [task.name for task in tasks], tokenizer),
    )  # fmt: skip
    print(report)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result: dict[str, Any] = {
        "items": args.items,
        "machine": {**machine, "threads": torch.get_num_threads()},
        **told(report),
    }
    if right is not None:
        result["request_level_right"] = right
    write(result, "evaluation", args.out)


if __name__ == "__main__":
    main()
