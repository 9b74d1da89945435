"""Causal attention: a token sees only itself and earlier tokens, and some of what it sees is dropped in training.

Build a Large Language Model (From Scratch), section 3.5.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.attention.base import UncachedAttention, check_single_head, hide


class CausalHead(nn.Module):
    """One head: (B, T, C) to (B, T, D).

    Args:
        head_dim: D.
        dropout: probability with which an attention weight is dropped in training.
        qkv_bias: whether the projections have a bias.
    """

    def __init__(self, *, d_model: int, head_dim: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        self.dropout = dropout
        self.query = nn.Linear(d_model, head_dim, bias=qkv_bias)
        self.key = nn.Linear(d_model, head_dim, bias=qkv_bias)
        self.value = nn.Linear(d_model, head_dim, bias=qkv_bias)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        weights = self.weights(self.query(x), self.key(x), mask)  # (B, T, T)
        return F.dropout(weights, self.dropout, self.training) @ self.value(x)  # (B, T, D)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """How much each token takes from itself and each earlier token, in shares that sum to 1: (B, T, T)."""
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])  # (B, T, T)
        return hide(scores, mask, causal=True).softmax(dim=-1)


class CausalAttention(UncachedAttention):
    """A single causal head as wide as the model, D = C."""

    causal = True
    family = "causal"

    def __init__(self, *, d_model: int, n_heads: int, context_length: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        check_single_head(self, n_heads)
        self.head = CausalHead(d_model=d_model, head_dim=d_model, dropout=dropout, qkv_bias=qkv_bias)

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.head(x, mask)  # (B, T, C)
