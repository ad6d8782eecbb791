"""Prompts that ask three questions at once: gates that switch adapters within an answer against one adapter for all.

    python -m benchmarks.composite --tasks TASKS --bundle BUNDLE --joint JOINT --folder ANSWERS --items 60

TASKS has `composite_3`; BUNDLE an adapter of each of its parts, and JOINT is one adapter trained on the three
(`benchmarks.joint`). Adapters that were trained on one question and one answer end after an answer. So an end before
the third question's number is read as a line break, in all variants alike; `…_before_end` is what there was until then.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import meteora_rs
from meteora_rs import BASE, Mix
from meteora_rs.cli.loading import load_model
from meteora_rs.evaluate import Gates, Report, Variant, evaluate, read_tasks

from benchmarks.evaluation import numbers
from benchmarks.written import write

TASK = "composite_3"


def told(report: Report) -> dict[str, Any]:
    """Counts with their intervals, each question's accuracy, and who led the tokens of each question's answer."""
    (task,) = report.tasks
    parts = {
        variant: {
            part: {
                "attempted": round(result.attempted, 4),
                "accuracy": numbers(result.scores)[next(iter(result.scores))],
                "served": {name: round(share, 3) for name, share in result.served.items() if share >= 0.01},
            }
            for part, result in each.items()
        }
        for variant, each in task.parts.items()
    }
    counts = {variant: numbers(scores) for variant, scores in task.scores.items()}
    return {"items": task.items, "counts": counts, "parts": parts}


def main() -> None:
    """Answer, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--joint", type=Path, help="a PEFT folder: one adapter trained on all parts")
    parser.add_argument("--folder", type=Path, required=True, help="where answers are kept")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=40, help="for each question (default: 40)")
    parser.add_argument("--variants", help="of those there are (default: all)")
    parser.add_argument("--out", type=Path, help="default: results/composite-<date>.json")
    args = parser.parse_args()

    model, tokenizer = load_model(None)
    meteora = meteora_rs.attach_pretrained(model, args.bundle)
    tasks = read_tasks(args.tasks, [TASK], limit=args.items)
    parts = tasks[0].parts
    ways: dict[str, Variant] = {"k=1": Gates(top_k=1), "k=2": Gates(top_k=2), **{part: part for part in parts}}
    ways |= {"the three alike": Mix({part: 1 / len(parts) for part in parts}), "base": BASE}
    if args.joint is not None:
        meteora.load_adapter(args.joint, "joint", gate="none")
        ways["joint"] = "joint"
    if args.variants:
        ways = {name: ways[name] for name in args.variants.split(",")}
    report = evaluate(
        meteora, tasks, args.folder, tokenizer=tokenizer, variants=ways, complete=True,
        max_new_tokens=args.max_new_tokens, batch_tokens=16384,  # most of it is examples that all prompts begin with
    )  # fmt: skip
    print(report)
    write(told(report), "composite", args.out)


if __name__ == "__main__":
    main()
