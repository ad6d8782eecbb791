"""Answer prompts with routed adapters; on a terminal each token has the colour of the adapter that served it.

meteora generate --adapters examples/bundle "How many fruits are two plums and a fig?"
meteora generate --model my-llama --adapter math=adapters/math --adapter law=adapters/law -
"""

from __future__ import annotations

import argparse
import json
import sys

HELP = "answer prompts with routed adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from meteora_rs.cli import colour, loading
    from meteora_rs.cli.arguments import SYNTAX, parse_route, positive

    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="prompts; - reads one from each line of stdin")
    loading.add_model_argument(parser)
    loading.add_adapters_argument(parser)
    parser.add_argument(
        "--route",
        type=parse_route,
        default="auto",
        metavar="ROUTE",
        help=f"for all prompts: {SYNTAX} (default: auto)",
    )
    parser.add_argument("--max-new-tokens", type=positive, default=64, metavar="N")
    parser.add_argument("--json", action="store_true", help="one JSON object with answers and shares for each prompt")
    colour.add_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one answer for each prompt."""
    from meteora_rs.cli import answers, colour, loading

    prompts = [line.rstrip("\n") for line in sys.stdin] if args.prompts == ["-"] else args.prompts
    if not prompts:
        return 0
    model, tokenizer = loading.load_model(args.model)
    meteora = loading.attach(model, args.adapters)
    palette = colour.Palette([adapter.name for adapter in meteora.adapters()], colour.wanted(args.color))
    speaker = answers.Speaker(model, tokenizer, meteora)
    batch = speaker.answer(prompts, args.route, args.max_new_tokens)
    for prompt, answer in zip(prompts, batch, strict=True):
        if args.json:
            tokens = [list(pair) for pair in zip(answer.pieces, answer.leaders, strict=True)]
            line = {"prompt": prompt, "answer": answer.text, "shares": answer.shares, "tokens": tokens}
            print(json.dumps(line, ensure_ascii=False))
        else:
            print(answer.painted(palette) if palette.on else answer.text)
    return 0
