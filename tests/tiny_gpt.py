"""Small GPTs with first weights that are the same each time."""

from typing import Any

import torch

from gptlab.model import GPT, init
from gptlab.model.attention.fused import FusedAttention


def tiny_gpt(**changes: Any) -> GPT:
    """Two layers of two heads, 20 tokens, 16 positions, no dropout, a tied head; `changes` are the constructor's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.0}
    kinds = {"qkv_bias": True, "tie_head": True, "attention": FusedAttention, "init": init.gpt2}
    return GPT(**{**sizes, **kinds, **changes})
