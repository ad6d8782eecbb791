"""Fitted gates against trained ones, on the same texts: loss on the responses of test items, and what each cost.

    python -m benchmarks.training --tasks TASKS --adapters ADAPTERS

TASKS and ADAPTERS as for `benchmarks.routing`. First the gates are fitted; then each of --trainings starts anew, from
the fitted rows or cold, with the texts that the fit had, and is judged on the same test items: with one adapter a token
(k=1) and with two (k=2). A training is `start:top_k:steps:learning_rate`; steps are set so that none takes more than
four minutes of one core. Losses are nats a token; `spread` as in `benchmarks.routing`.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import Meteora, MeteoraConfig
from meteora_rs.cli.loading import load_model
from meteora_rs.cli.texts import read_texts

from benchmarks.routing import evaluate
from benchmarks.written import write

NAMES = "cs_algorithms,object_counting,reasoning_about_colored_objects,strategyqa"
TRAININGS = "fitted:1:54:3e-4,cold:1:54:5e-3,fitted:2:21:3e-4,cold:2:21:5e-3"


def judged(meteora: Meteora, tokenizer: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Losses on the adapters' tasks and on general text, and the adapters' means."""
    names = [record.name for record in meteora.adapters()]
    variants = ["own", "base", "k=1", "k=2"]
    tasks = {task: evaluate(meteora, tokenizer, args.tasks, task, args.items, variants) for task in names}
    mean = {each: sum(tasks[task]["loss"][each] for task in names) / len(names) for each in variants}
    print("mean of the adapters' tasks: ", *(f"{each} {loss:.4f}" for each, loss in mean.items()), flush=True)
    for task in args.general.split(",") if args.general else []:
        tasks[task] = evaluate(meteora, tokenizer, args.tasks, task, args.items, ["base", "k=1", "k=2"])
    return {"mean": mean, "tasks": tasks}


def main() -> None:
    """Fit, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--names", default=NAMES, help=f"adapters to load (default: {NAMES})")
    parser.add_argument("--general", default="alpaca", help="tasks without an adapter (default: alpaca)")
    parser.add_argument("--texts", type=int, default=60, help="of each task to fit and train on (default: 60)")
    parser.add_argument("--items", type=int, default=12, help="test items of each task (default: 12)")
    parser.add_argument("--trainings", default=TRAININGS, help=f"default: {TRAININGS}")
    parser.add_argument("--out", type=Path, help="default: results/training-<date>.json")
    args = parser.parse_args()

    model, tokenizer = load_model(None)
    meteora = meteora_rs.attach(model, MeteoraConfig(top_k=2))
    for name in args.names.split(","):
        meteora.load_adapter(args.adapters / name, adapter_name=name)
    data = {each.name: read_texts(args.tasks / each.name / "train.jsonl", args.texts) for each in meteora.adapters()}
    told = {key: value for key, value in vars(args).items() if not isinstance(value, Path) and value is not None}
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result: dict[str, Any] = {"arguments": told, "machine": {**machine, "threads": torch.get_num_threads()}}

    start, cpu = time.perf_counter(), time.process_time()
    fit = meteora.fit_gates(data, tokenizer=tokenizer)
    spent = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    print(fit, spent, sep="\n", flush=True)
    rows, kept = meteora.gate_rows(), meteora.kept_texts
    result["fitted"] = {**spent, **judged(meteora, tokenizer, args)}
    for training in args.trainings.split(","):
        begin, top_k, steps, rate = training.split(":")
        meteora.set_gates(rows)
        meteora.kept_texts = kept
        start, cpu = time.perf_counter(), time.process_time()
        report = meteora.train_gates(
            data, tokenizer=tokenizer, top_k=int(top_k), steps=int(steps), learning_rate=float(rate),
            cold=begin == "cold", warmup_steps=int(steps) // 10, logging_steps=max(1, int(steps) // 20),
        )  # fmt: skip
        spent = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
        print(training, report, spent, sep="\n", flush=True)
        result[training] = {**spent, "curve": report.curve, **judged(meteora, tokenizer, args)}
    write(result, "training", args.out)


if __name__ == "__main__":
    main()
