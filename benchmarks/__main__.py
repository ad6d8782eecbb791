"""`python -m benchmarks`: SmolLM2-135M fp32, random adapters r = 8 on 7 projections, against the base and peers.

Writes benchmarks/results/<machine>-<date>.json and .png; with --quick a few rounds only, into benchmarks/local/.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import meteora_rs
import peft
import torch
import transformers
from meteora_rs import _native

from benchmarks import loading, memory, models
from benchmarks.plot import plot_results
from benchmarks.random_adapters import write_adapters
from benchmarks.timing import Variant, decode_ms, prefill_ms, ratios

HERE = Path(__file__).parent


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements, as one JSON-ready dict."""
    torch.set_num_threads(args.threads)
    base = models.load_base()
    vocabulary = base.config.vocab_size
    results: dict[str, Any] = {"machine": machine(args)}
    with tempfile.TemporaryDirectory() as scratch:
        many = [int(n) for n in args.sizes.split(",")]
        paths = write_adapters(Path(scratch), base, max(args.adapters, *many))
        chosen = paths[: args.adapters]

        print("loading", flush=True)
        os.sync()  # or the adapters' files are still being written while they are read
        results["loading"] = {gate: loading.meteora_loading(base, chosen, gate) for gate in ("none", "arrow")}
        results["memory"] = memory.in_own_process(Path(scratch), len(chosen))
        results["arrow_rows_s"] = loading.arrow_rows(base, chosen[0])

        meteora = models.attached(base, chosen)
        # Twice, to show what the noise is; a twin as all others are.
        bases = {name: Variant(models.twin(base)) for name in ("base", "base again")}
        variants = {**bases, **models.meteora_variants(meteora, chosen[0].name)}
        variants["meteora auto, arrow gates"] = Variant(models.attached(base, chosen, "arrow").model)
        if args.peers:
            variants["PEFT single"] = models.peft_single(base, chosen[0])
            variants["PEFT Arrow"] = models.peft_arrow(base, chosen, top_k=2)
        results["decode"] = ratios(variants, decode_ms, args.rounds, vocabulary, "decode")
        if args.peers:
            variants["X-LoRA"] = models.peft_xlora(base, chosen)
        results["prefill"] = ratios(variants, prefill_ms, args.rounds, vocabulary, "prefill")
        del variants, meteora
        gc.collect()

        sized = {f"N = {n}": Variant(models.attached(base, paths[:n]).model) for n in many}
        results["adapters"] = ratios({**bases, **sized}, decode_ms, args.rounds, vocabulary, "by N")
        del sized
        gc.collect()
        if args.peers:
            print("loading with PEFT", flush=True)
            results["loading"]["PEFT"] = loading.peft_loading(base, chosen)
    return results


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    cpu = next(named, platform.processor())
    return {
        "date": datetime.date.today().isoformat(), "cpu": cpu, "isa": _native.isa(), "threads": args.threads,
        "adapters": args.adapters, "rounds": args.rounds, "model": "SmolLM2-135M-Instruct float32", "top_k": 2,
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "peft": peft.__version__, "command": "make bench",
    }  # fmt: skip


def show(results: dict[str, Any]) -> None:
    """Print the tables."""
    for section in ("decode", "prefill", "adapters"):
        print(f"\n{section:28}      ms   ratio to base (least to largest)")
        for name, row in results[section].items():
            spread = f"({row['ratio_min']:.3f} to {row['ratio_max']:.3f})"
            print(f"  {name:26} {row['ms']:7.2f}   {row['ratio']:.3f} {spread}")
    print("\nloading")
    for name, row in results["loading"].items():
        print(f"  {name:8} {row}")
    print(f"  memory   {results['memory']}")
    print(f"  Arrow rows of one adapter: {results['arrow_rows_s'] * 1e3:.1f} ms")


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--adapters", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", default="8,28,64,256", help="numbers of adapters for the growth of decode")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--quick", action="store_true", help="three rounds, no peers, results kept out of git")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.peers, args.sizes = 3, False, "8,64"
    results = run(args)
    show(results)
    folder = HERE / ("local" if args.quick else "results")
    folder.mkdir(exist_ok=True)
    stem = f"{results['machine']['cpu'].lower().replace(' ', '-')}-{results['machine']['date']}"
    (folder / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    plot_results(results, folder / f"{stem}.png")
    print(f"\nwrote {folder / stem}.json and .png; meteora-rs at {Path(meteora_rs.__file__).parent}")


if __name__ == "__main__":
    main()
