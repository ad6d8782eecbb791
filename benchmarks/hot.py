"""`python -m benchmarks.hot`: what loading costs those who run, and those who wait, on SmolLM2-135M fp32.

Ratios in one run, PEFT beside us; writes benchmarks/results/hot-<date>.json, with --quick into benchmarks/local/.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import meteora_rs
import torch
from meteora_rs import MeteoraConfig
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter

from benchmarks import models
from benchmarks.__main__ import machine
from benchmarks.beside import Scene, beside, busy_core, come_and_go, every_second, spin
from benchmarks.crowd import crowd
from benchmarks.random_adapters import write_adapters
from benchmarks.stages import first_token, timed, warm_load
from benchmarks.timing import PREFILL, PROMPT, Variant
from benchmarks.written import HERE, write

RANK = 16
SLOTS = 8
HOST_BYTES = 1 << 28


def attached(base: Any, adapters: list[Path], host_bytes: int = 0) -> meteora_rs.Meteora:
    """A twin with half of its slots taken and the other half free."""
    config = MeteoraConfig(max_adapters=SLOTS, pool_rank=RANK * SLOTS, host_bytes=host_bytes)
    meteora = meteora_rs.attach(models.twin(base), config)
    for path in adapters[: SLOTS // 2]:
        meteora.load_adapter(path, path.name, gate="arrow")
    return meteora


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements, as one JSON-ready dict."""
    torch.set_num_threads(args.threads)
    base = models.load_base()
    tokens = torch.randint(100, base.config.vocab_size, (1, PREFILL), generator=torch.Generator().manual_seed(0))
    results: dict[str, Any] = {"machine": {**machine(args), "command": "make bench-hot", "rank": RANK}}
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_adapters(Path(scratch), base, SLOTS + 2, RANK)
        os.sync()
        meteora = attached(base, paths)
        results["load"] = warm_load(meteora, paths[-1])
        tiered = attached(base, paths, HOST_BYTES)
        results["first token"] = first_token(meteora, tiered, paths[SLOTS // 2 :], tokens[:, :PROMPT])
        tiered.detach()

        ours = Variant(meteora.model)
        load_ms = statistics.median(timed(lambda: come_and_go(meteora, paths[-1])) for _ in range(9))
        scenes = {
            "alone": Scene(ours, "alone"),
            "alone again": Scene(ours, "alone"),
            "a load a second": Scene(ours, "alone", every_second(lambda: come_and_go(meteora, paths[-1]))),
            "as much CPU a second": Scene(ours, "alone", every_second(lambda: spin(load_ms))),
            "a busy core": Scene(ours, "alone", busy_core),
        }
        if args.peers:
            wrapped: Any = PeftModel.from_pretrained(models.twin(base), str(paths[0])).eval()
            peft = Variant(wrapped)

            def load_and_delete() -> None:
                wrapped.load_adapter(str(paths[-1]), adapter_name="new")
                wrapped.delete_adapter("new")

            def swap() -> None:
                hotswap_adapter(wrapped, str(paths[-1]), adapter_name="default")

            scenes["PEFT alone"] = Scene(peft, "PEFT alone")
            scenes["PEFT, load_adapter and delete_adapter"] = Scene(peft, "PEFT alone", every_second(load_and_delete))
            scenes["PEFT, hotswap"] = Scene(peft, "PEFT alone", every_second(swap))
        results["beside"] = beside(scenes, args.rounds, tokens)
        meteora.detach()
    few = 10 if args.quick else 1
    results["crowd"] = crowd(base, tokens, 1000 // few, args.requests // few)
    return results


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    crowd = results["crowd"]
    sections = {
        "load": results["load"],
        "first token": results["first token"],
        "zipf": {name: crowd[name] for name in ("hits", "zipf")},
        "by number registered": crowd["look-ups"],
    }
    for section, rows in sections.items():
        print(f"\n{section}")
        for name, row in rows.items():
            print(f"  {name!s:14} {row}")
    print(f"\n{'decode beside':40} {'ms':>6}   ratio (rounds)             p99   more (95%)            worst    one act")
    for name, row in results["beside"].items():
        low, high = row["p99_more_interval_ms"]
        print(
            f"  {name:38} {row['ms']:6.2f}   {row['ratio']:.3f} ({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
            f"   {row['p99_ms']:6.2f} {row['p99_more_ms']:+6.2f} ({low:+6.2f} to {high:+6.2f}) {row['worst_ms']:6.1f}"
            + (f"  {row['act_ms']:7.1f} ms" if "act_ms" in row else "")
            + (f", {row['met_more_ms'][1]:+.1f} ms to a step that it meets" if "act_ms" in row else "")
            + (f"  {row['failed_steps']} steps failed" if row["failed_steps"] else "")
        )


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot", description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="torch's; the other core is the loader's")
    parser.add_argument("--rounds", type=int, default=12, help="fewer, and one slow step more is a p99")
    parser.add_argument("--requests", type=int, default=100, help="of the Zipf run")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--quick", action="store_true", help="two rounds, results kept out of git")
    args = parser.parse_args()
    args.adapters = SLOTS // 2
    if args.quick:
        args.rounds = 2
    results = run(args)
    show(results)
    kept_out = HERE / "local" / f"hot-{results['machine']['date']}.json"
    write(results, "hot", kept_out if args.quick else None)
    print(f"meteora-rs at {Path(meteora_rs.__file__).parent}")


if __name__ == "__main__":
    main()
