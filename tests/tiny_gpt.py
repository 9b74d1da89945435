"""Small GPTs with first weights that are the same each time, and a model that is no GPT."""

from typing import Any

import torch
from torch import Tensor, nn

from gptlab.model import GPT, LanguageModel, init
from gptlab.model.attention.fused import FusedAttention
from gptlab.model.classifier import GPTClassifier
from gptlab.model.feed_forward.gelu import GELUFeedForward
from gptlab.model.ngram import NgramGPT
from gptlab.model.norm.layernorm import LayerNorm
from gptlab.model.positions.learned import LearnedPositions

PARTS: dict[str, Any] = {
    **{"attention": FusedAttention, "norm": LayerNorm, "feed_forward": GELUFeedForward},
    **{"positions": LearnedPositions, "init": init.gpt2},
}
"""GPT-2's."""


def tiny_gpt(**changes: Any) -> GPT:
    """Two layers of two heads, 20 tokens, 16 positions, no dropout, a tied head; `changes` are the constructor's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.0}
    return GPT(**{**sizes, "qkv_bias": True, "tie_head": True, **PARTS, **changes})


def tiny_ngram_gpt(**changes: Any) -> NgramGPT:
    """The same with three earlier tokens in each token's vector."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.0}
    return NgramGPT(**{**sizes, "n_earlier": 3, "qkv_bias": True, "tie_head": True, **PARTS, **changes})


def tiny_classifier(**changes: Any) -> GPTClassifier:
    """The same with a head over labels, and weights so large that its answers differ; in evaluation mode."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "context_length": 16, "n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.0}
    how = {"pool": "last", "labels": ["ham", "spam", "news"], "qkv_bias": True, "tie_head": True}
    model = GPTClassifier(**{**sizes, **how, **PARTS, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def decisive_gpt(**changes: Any) -> GPT:
    """Weights so large that the most likely token is clear; in evaluation mode."""
    model = tiny_gpt(**{"tie_head": False, **changes}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


class Bigram(LanguageModel):
    """A model of a user's own, as short as it can be: an embedding and a linear head, without a cache."""

    def __init__(self, *, vocab_size: int, context_length: int, d_model: int) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.trunk = nn.Embedding(vocab_size, d_model)
        self.head = nn.Linear(d_model, vocab_size)


class Averaging(nn.Module):
    """An attention of a user's own without weights, cache or causal mask: the mean of the tokens that may be seen."""

    causal, family, uses_cache = False, "averaging", False

    def __init__(self, **sizes: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, *, mask: Tensor | None = None, positions: Any = None, cache: Any = None) -> Tensor:
        assert cache is None
        assert mask is None or mask.dim() == 4
        if mask is None:
            return x.mean(dim=1, keepdim=True).expand_as(x)
        return mask[:, 0].to(x.dtype) @ x / mask[:, 0].sum(dim=-1, keepdim=True)
