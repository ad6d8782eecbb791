"""One plain PEFT adapter trained on several tasks together: what routing is held against.

    python -m benchmarks.joint --tasks TASKS --names logical_deduction,question_selection,strategyqa --out JOINT

TASKS as for `benchmarks.routing`. Rank 8, alpha 16, all seven projections, AdamW with a rate that falls in a straight
line, loss on the responses: as the adapters of one task each were trained, but for --steps. Every batch has as many
texts of each task. A run that was stopped goes on where it was (JOINT/state.pt).
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from meteora_rs.cli.loading import load_model
from meteora_rs.cli.texts import read_texts
from meteora_rs.texts.loss import Encoded, encode_pair, padded_left
from meteora_rs.texts.packing import packed
from peft import LoraConfig, get_peft_model
from peft.utils import set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from benchmarks.random_adapters import PROJECTIONS


def batches(texts: list[list[Encoded]], size: int, steps: int) -> list[list[Encoded]]:
    """`steps` batches with as many texts of each task, each text once before any comes again; always the same ones."""
    draw = random.Random(0)
    queues: list[list[Encoded]] = [[] for _ in texts]
    found = []
    for _ in range(steps):
        batch: list[Encoded] = []
        while len(batch) < size:
            for queue, task in zip(queues, texts, strict=True):
                if not queue:
                    queue.extend(draw.sample(task, len(task)))
                batch.append(queue.pop())
        found.append(batch[:size])
    return found


def backward(model: Any, batch: list[Encoded]) -> float:
    """Gradients of the mean cross-entropy over the responses' tokens, which is returned; like lengths together."""
    tokens = sum(count for _, count in batch)
    whole = 0.0
    for rows in packed([len(ids) for ids, _ in batch], 1024):
        part = [batch[row] for row in rows]
        longest = max(count for _, count in part)
        inputs = padded_left(part)
        logits = model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
        targets = inputs["input_ids"][:, -longest:].clone()
        for row, (_, count) in enumerate(part):
            targets[row, : longest - count] = -100
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / tokens
        loss.backward()
        whole += loss.item()
    return whole


def main() -> None:
    """Train, and write a PEFT folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--names", default="logical_deduction,question_selection,strategyqa")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=15)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--longest", type=int, default=320, help="leave out texts of more tokens (default: 320)")
    args = parser.parse_args()

    torch.manual_seed(0)
    base, tokenizer = load_model(None)
    model: Any = get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM")
    )
    texts = []
    for name in args.names.split(","):
        pairs = [encode_pair(tokenizer, pair) for pair in read_texts(args.tasks / name / "train.jsonl")]
        texts.append([([*p, *r], len(r)) for p, r in pairs if len(p) + len(r) <= args.longest])
        print(f"{name}: {len(texts[-1])} texts", flush=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.rate, weight_decay=0.0)
    begin, state = 0, args.out / "state.pt"
    if state.is_file():
        kept = torch.load(state)
        begin = kept["step"]
        optimizer.load_state_dict(kept["optimizer"])
        set_peft_model_state_dict(model, load_file(args.out / "adapter_model.safetensors"))
    model.train()
    for step, batch in enumerate(batches(texts, args.batch, args.steps)):
        if step < begin:
            continue
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 10) * max(0.05, 1 - step / args.steps)
        loss = backward(model, batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"step {step + 1}: loss {loss:.4f}, {time.process_time() - start:.1f} s", flush=True)
        model.save_pretrained(args.out)
        torch.save({"step": step + 1, "optimizer": optimizer.state_dict()}, state)
    weights = args.out / "adapter_model.safetensors"
    halves = {key: value.to(torch.bfloat16).contiguous() for key, value in load_file(weights).items()}
    save_file(halves, weights, metadata={"format": "pt"})
    state.unlink()


if __name__ == "__main__":
    main()
