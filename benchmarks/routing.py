"""How well gates route: loss on the responses of test items, with the task's own adapter and with the gates' choice.

    python -m benchmarks.routing --tasks TASKS --adapters ADAPTERS      # fit, evaluate, write the result
    python -m benchmarks.routing --tasks TASKS --bundle BUNDLE          # evaluate gates that are there
    python -m benchmarks.routing --tasks … --adapters … --late NAMES    # these come after the fit, with 32 examples
    python -m benchmarks.routing … --late NAMES --answers 40            # and answer test items of their tasks

TASKS holds `<task>/{train,test}.jsonl` (`{"prompt": …, "response": …}` a line), ADAPTERS a PEFT folder named after
each task that has one. Gates are fitted on the first lines of train.jsonl; items are the first of test.jsonl. Tasks
named by --general have no adapter: their loss shall be the base's. Losses are nats a token, mean over items; `spread`
is the standard error of the mean difference to the reference (own adapter, else base, else the first variant), item by
item.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import BASE, Auto, Meteora, MeteoraConfig
from meteora_rs.cli.loading import load_model
from meteora_rs.cli.texts import read_texts
from meteora_rs.evaluate import OWN, Gates, read_tasks
from meteora_rs.evaluate import evaluate as run
from meteora_rs.gates.fit.data import Example, encode
from meteora_rs.texts.loss import token_losses

from benchmarks.evaluation import limits, told
from benchmarks.written import write

GENERAL = "topical_chat,gsm8k,alpaca,cnn_dailymail"


def items(tasks: Path, task: str, count: int, tokenizer: Any) -> list[Example]:
    """The first test items of a task, as the loss reads them."""
    encoded = [encode(text, tokenizer, 512) for text in read_texts(tasks / task / "test.jsonl", count)]
    return [Example(0, tuple(ids), response, (), (), True) for ids, response in encoded]


def evaluate(meteora: Meteora, tokenizer: Any, tasks: Path, task: str, count: int, variants: list[str]) -> Any:
    """`{variant: losses}` of one task's items, and their means."""
    examples = items(tasks, task, count, tokenizer)
    routes: dict[str, tuple[Any, int | None]] = {
        "base": (BASE, None), "own": (task, None), "k=1": (Auto(), 1), "k=2": (Auto(), 2)
    }  # fmt: skip
    losses = {}
    for variant in variants:
        route, top_k = routes[variant]
        found = token_losses(meteora, [example.encoded for example in examples], route, top_k=top_k)
        losses[variant] = [nats / count for nats, count in found]
    reference = torch.tensor(losses.get("own", losses.get("base", next(iter(losses.values())))))
    means = {variant: sum(each) / len(each) for variant, each in losses.items()}
    spread = {
        variant: float((torch.tensor(each) - reference).std() / len(each) ** 0.5) for variant, each in losses.items()
    }
    print(
        f"{task:32}", *(f"{variant} {mean:.4f} (±{spread[variant]:.3f})" for variant, mean in means.items()), flush=True
    )
    return {"loss": means, "spread": spread}


def fitted(args: argparse.Namespace, model: Any, tokenizer: Any, late: list[str]) -> tuple[Meteora, dict[str, Any]]:
    """The model with the adapters of the folder, without the late ones, their gates fitted; and what that took."""
    meteora = meteora_rs.attach(model, MeteoraConfig(top_k=2))
    for folder in sorted(args.adapters.iterdir()):
        if folder.is_dir() and folder.name not in late and (args.names is None or folder.name in args.names.split(",")):
            meteora.load_adapter(folder, adapter_name=folder.name)
    data = {each.name: read_texts(args.tasks / each.name / "train.jsonl", args.train) for each in meteora.adapters()}
    start, cpu = time.perf_counter(), time.process_time()
    report = meteora.fit_gates(data, tokenizer=tokenizer, **json.loads(args.fit))
    spent = {
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,  # model and adapters included
        "threads": torch.get_num_threads(),
    }
    print(report, spent, report.losses, sep="\n", flush=True)
    if args.plot is not None:
        report.plot(args.plot)
    return meteora, {**report.to_dict(), **spent}


def answered(meteora: Meteora, tokenizer: Any, tasks: Path, name: str, count: int) -> dict[str, Any]:
    """How a task's first items are answered by its own adapter and by the gates' choice: scores and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        report = run(
            meteora,
            read_tasks(tasks, [name], limit=count),
            folder,
            tokenizer=tokenizer,
            variants={"own": OWN, "k=1": Gates(top_k=1)},
            task_max_new_tokens=limits(tasks, [name], tokenizer),
        )
    found = told(report)["tasks"][name]
    print(f"{name}: answers {found['score']}, of its own {found['ratio_to_own']}", flush=True)
    return found


def _folder(variable: str) -> Path | None:
    return Path(os.environ[variable]) if variable in os.environ else None


def main() -> None:
    """Fit, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=_folder("METEORA_TASKS"))
    parser.add_argument("--adapters", type=Path, default=_folder("METEORA_ADAPTERS"))
    parser.add_argument("--names", help="adapters to load (default: all in the folder)")
    parser.add_argument("--general", default=GENERAL, help=f"tasks without an adapter (default: {GENERAL})")
    parser.add_argument("--late", default="", help="adapters to load after the fit, with --examples texts each")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--answers", type=int, default=0, help="items of each late task to answer (default: 0)")
    parser.add_argument("--bundle", type=Path, help="evaluate this bundle instead of fitting")
    parser.add_argument("--save", type=Path, help="write the fitted bundle here")
    parser.add_argument("--train", type=int, default=60, help="texts of each task to fit on (default: 60)")
    parser.add_argument("--items", type=int, default=12, help="test items of each task (default: 12; 0: fit only)")
    parser.add_argument("--variants", default="base,own,k=1,k=2")
    parser.add_argument("--fit", default="{}", help="options of fit_gates, as JSON")
    parser.add_argument("--plot", type=Path, help="draw the fit's report here")
    parser.add_argument("--out", type=Path, help="default: results/routing-<date>.json")
    args = parser.parse_args()
    if args.tasks is None or (args.adapters is None and args.bundle is None):
        parser.error("--tasks, and --adapters or --bundle, are needed")

    model, tokenizer = load_model(None)
    told = {
        key: value for key, value in vars(args).items() if not isinstance(value, Path)
    }  # folders are the reader's own
    result: dict[str, Any] = {"arguments": told}
    late = [name for name in args.late.split(",") if name]
    if args.bundle is not None:
        meteora = meteora_rs.attach_pretrained(model, args.bundle)
    else:
        meteora, result["fit"] = fitted(args, model, tokenizer, late)
    if args.save is not None:
        meteora.save_pretrained(args.save)

    def evaluated() -> dict[str, Any]:
        variants = args.variants.split(",")
        names = [record.name for record in meteora.adapters()]
        found = {task: evaluate(meteora, tokenizer, args.tasks, task, args.items, variants) for task in names}
        for variant in variants:
            mean = sum(found[task]["loss"][variant] for task in names) / len(names)
            print(f"mean over the adapters' tasks, {variant}: {mean:.4f}")
        unowned = [variant for variant in variants if variant != "own"]
        for task in args.general.split(",") if args.general else []:
            found[task] = evaluate(meteora, tokenizer, args.tasks, task, args.items, unowned)
        return found

    if args.items:
        result["tasks"] = evaluated()
    for name in late:
        start = time.perf_counter()
        texts = read_texts(args.tasks / name / "train.jsonl", args.examples)
        meteora.load_adapter(args.adapters / name, name, gate=texts, tokenizer=tokenizer)
        result.setdefault("late", {})[name] = {"seconds": time.perf_counter() - start}
        print(f"{name} came late, in {result['late'][name]['seconds']:.1f} s", flush=True)
        if args.items:
            result["late"][name]["tasks"] = evaluated()
        if args.answers:
            result["late"][name]["answers"] = answered(meteora, tokenizer, args.tasks, name, args.answers)
    write(result, "routing", args.out)


if __name__ == "__main__":
    main()
