"""LoRA-Flow's layer gate on a task whose own adapter is held back: what mixing the others is worth.

    python -m benchmarks.flow --tasks TASKS --adapters ADAPTERS --task epistemic_reasoning

TASKS and ADAPTERS as for `benchmarks.routing`. Loss on the responses of test items, nats a token, mean over items, with
no adapter, each of the others, equal weights, one fixed mix (`learn_mix`), the layer gate (`train_flow_gate`), and the
task's own adapter, which neither has seen.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import meteora_rs
from meteora_rs import BASE, Auto, Mix
from meteora_rs.cli.loading import load_model
from meteora_rs.cli.texts import read_texts
from meteora_rs.gates.mix import learn_mix
from meteora_rs.texts.loss import response_losses

from benchmarks.written import write

OTHERS = "cs_algorithms,logical_deduction,strategyqa,winowhy"


def main() -> None:
    """Learn, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, required=True)
    parser.add_argument("--task", default="epistemic_reasoning")
    parser.add_argument("--others", default=OTHERS, help=f"adapters to mix (default: {OTHERS})")
    parser.add_argument("--texts", type=int, default=192, help="for the layer gate (default: 192)")
    parser.add_argument("--steps", type=int, default=12, help="of 16 texts (default: 12)")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--mix-texts", type=int, default=8, help="for the fixed mix (default: 8)")
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--out", type=Path, help="default: results/flow-<date>.json")
    args = parser.parse_args()

    model, tokenizer = load_model(None)
    meteora = meteora_rs.attach(model)
    others = args.others.split(",")
    for name in [*others, args.task]:
        meteora.load_adapter(args.adapters / name, adapter_name=name)
    pairs: list[Any] = read_texts(args.tasks / args.task / "train.jsonl", args.texts)
    items: list[Any] = read_texts(args.tasks / args.task / "test.jsonl", args.items)
    losses: dict[str, float] = {}

    def judge(name: str, route: Any) -> None:
        found = response_losses(meteora, tokenizer, items, route)
        losses[name] = sum(nats / tokens for nats, tokens in found) / len(found)
        print(f"{name:40} {losses[name]:.4f}", flush=True)

    judge("base", BASE)
    for name in others:
        judge(name, name)
    judge("equal weights", Mix(dict.fromkeys(others, 1 / len(others))))
    judge("own adapter, held back", args.task)
    start = time.perf_counter()
    mix = learn_mix(meteora, pairs[: args.mix_texts], tokenizer=tokenizer, adapters=others, evaluations=20)
    seconds = {"fixed mix": time.perf_counter() - start}
    judge("fixed mix", mix)
    report = meteora.train_flow_gate(
        pairs, adapters=others, tokenizer=tokenizer, steps=args.steps, learning_rate=args.learning_rate,
        logging_steps=1,
    )  # fmt: skip
    seconds["layer gate"] = report.seconds
    judge("layer gate", Auto(only=others))
    told = {key: value for key, value in vars(args).items() if not isinstance(value, Path) and value is not None}
    result = {
        "arguments": told, "losses": losses, "seconds": seconds, "mix": dict(mix.weights), "curve": report.curve
    }  # fmt: skip
    write(result, "flow", args.out)


if __name__ == "__main__":
    main()
