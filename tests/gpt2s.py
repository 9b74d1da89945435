"""Tiny random GPT-2s, built by transformers itself."""

from pathlib import Path
from typing import Any

import torch


def make_gpt2(**changes: Any) -> Any:
    """Random in every tensor, so that a swapped or forgotten one shows."""
    from transformers import GPT2Config, GPT2LMHeadModel  # seconds, which only those who need it pay

    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24, "vocab_size": 61}
    model = GPT2LMHeadModel(GPT2Config(**{**sizes, "bos_token_id": None, "eos_token_id": None, **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def save_gpt2(directory: Path, **changes: Any) -> Any:
    """The same, saved by transformers."""
    model = make_gpt2(**changes)
    model.save_pretrained(directory)
    return model


def some_tokens(vocab_size: int, *, rows: int = 3, length: int = 20) -> torch.Tensor:
    return torch.randint(0, vocab_size, (rows, length), generator=torch.Generator().manual_seed(2))
