"""Tiny models on disk that read and write words."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from tiny import SIZES, adapter, write
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = "how many plums and figs do I have ? one two three law says yes no tell me of Paris ."


def save_model(folder: Path, words: str = WORDS) -> Path:
    """A random LLaMA in `folder`, with a tokenizer that knows the words of `words`."""
    special = ["<unk>", "<s>", "</s>"]
    known = dict.fromkeys([*special, *re.findall(r"\w+|[^\w\s]", words)])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "vocab_size": len(known), "eos_token_id": 2, "pad_token_id": 2})
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, model: Path, seed: int, rank: int = 4) -> Path:
    """A random adapter for the model in `model`."""
    return write(adapter(AutoModelForCausalLM.from_pretrained(model), rank, seed=seed), folder)
