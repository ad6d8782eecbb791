"""Train the gates of adapters by back-propagation (transformers' Trainer), and write a bundle.

    meteora train-gates --adapter bundle --texts math=math.jsonl --texts law=law.jsonl --out trained --plot loss.png

Starts from the gates that are there: fit them first (fit-gates) and train from the bundle, or give PEFT adapters,
whose gates then start cold. Files of texts are as for fit-gates. With --checkpoints an interrupted run goes on with
--resume. Several processes: torchrun --nproc-per-node 2 -m meteora_rs.cli train-gates …

With --flow the texts (some 200) are of a task that has no adapter of its own, whatever the names before the files:
LoRA-Flow's layer gate learns to mix the adapters for it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from meteora_rs.cli import gates_bundle
from meteora_rs.errors import MeteoraError

HELP = "train gates by back-propagation, write a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs.cli.arguments import positive

    gates_bundle.add_input_arguments(parser)
    parser.add_argument("--flow", action="store_true", help="learn one gate for each layer, for a task of its own")
    parser.add_argument("--cold", action="store_true", help="do not start from the gates that are there")
    parser.add_argument("--steps", type=positive, default=300, metavar="N", help="optimizer steps (default: 300)")
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="texts at once (default: 4)")
    parser.add_argument("--accumulate", type=positive, default=4, metavar="N", help="batches a step (default: 4)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="LR", help="default: 1e-3, cosine")
    parser.add_argument("--beta", type=float, default=50.0, help="weight of the gate loss (default: 50)")
    parser.add_argument("--top-k", type=positive, metavar="K", help="adapters a token mixes (default: the config's)")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, metavar="FOLDER", help="write checkpoints of the gates")
    parser.add_argument("--resume", action="store_true", help="go on from the last one in --checkpoints")
    gates_bundle.add_output_arguments(parser, "the loss curves")


def run(args: argparse.Namespace) -> int:
    """Train, save, and print what was reached."""
    meteora, tokenizer, data = gates_bundle.prepare(args)
    options: dict[str, Any] = {
        "tokenizer": tokenizer, "steps": args.steps, "seed": args.seed, "output_dir": args.checkpoints,
        "resume_from_checkpoint": args.resume, "learning_rate": args.learning_rate, "bf16": args.bf16,
        "per_device_train_batch_size": args.batch_size, "gradient_accumulation_steps": args.accumulate,
        "gradient_checkpointing": args.gradient_checkpointing,
    }  # fmt: skip
    try:
        if args.flow:
            report = meteora.train_flow_gate([text for texts in data.values() for text in texts], **options)
        else:
            base = None if args.no_base else "general"
            report = meteora.train_gates(
                data, base=base, beta=args.beta, top_k=args.top_k, cold=args.cold, **options
            )  # fmt: skip
    except ValueError as error:  # too few classes or texts, an option out of range: the user's to mend
        raise MeteoraError(str(error)) from error
    if int(os.environ.get("RANK", "0")):
        return 0  # the first process has the same gates
    gates_bundle.finish(args, meteora, report)
    return 0
