"""Make `examples/bundle`: load four PEFT adapters, fit their gates and the base's, save.

    python examples/fit_bundle.py --adapters ADAPTERS TASKS

ADAPTERS has a PEFT folder for each task, TASKS (or `METEORA_TASKS`) a `<task>/train.jsonl` for each. It takes five
minutes on two cores, and 6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import meteora_rs
from meteora_rs.cli.loading import load_model

HERE = Path(__file__).parent
TASKS = ("object_counting", "reasoning_about_colored_objects", "logical_deduction", "goal_step_wikihow")
EXAMPLES_PER_TASK = 140


def pairs(path: Path, count: int | None = None) -> list[tuple[str, str]]:
    """The first `count` (prompt, response) pairs of a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    return [(item["prompt"], item["response"]) for item in read[:count]]


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, nargs="?", default=os.environ.get("METEORA_TASKS"), metavar="TASKS")
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=HERE / "bundle")
    parser.add_argument("--model", help="default: SmolLM2-135M-Instruct, fetched once")
    args = parser.parse_args()
    if args.tasks is None:
        parser.error("TASKS or METEORA_TASKS must name the folder with the tasks' examples")

    model, tokenizer = load_model(args.model)
    meteora = meteora_rs.attach(model)
    for task in TASKS:
        meteora.load_adapter(args.adapters / task, adapter_name=task)
    examples = {task: pairs(Path(args.tasks) / task / "train.jsonl", EXAMPLES_PER_TASK) for task in TASKS}
    print(meteora.fit_gates(examples, tokenizer=tokenizer, refine=True, read=6000, memory_budget=4 << 30))

    meteora.save_pretrained(args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
