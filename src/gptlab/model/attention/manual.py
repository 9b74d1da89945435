"""Attention with three matrices: what a token asks, offers and passes on is learned.

Build a Large Language Model (From Scratch), section 3.4; the scale is that of Vaswani et al. 2017, arXiv:1706.03762.
"""

import math

import torch
from torch import Tensor, nn

from gptlab.model.attention.base import UncachedAttention, check_single_head, hide


class ManualAttention(UncachedAttention):
    """softmax(Q K^T / sqrt(D)) V, with Q = x W_query, K = x W_key, V = x W_value and D = C."""

    causal = False
    family = "manual"

    def __init__(self, *, d_model: int, n_heads: int, context_length: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        check_single_head(self, n_heads)
        self.query, self.key, self.value = (nn.Parameter(torch.empty(d_model, d_model)) for _ in range(3))  # (C, C)
        for matrix in self.parameters():
            nn.init.uniform_(matrix, -1 / math.sqrt(d_model), 1 / math.sqrt(d_model))  # as nn.Linear does

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        queries, keys, values = x @ self.query, x @ self.key, x @ self.value  # each (B, T, C)
        return self.weights(queries, keys, mask) @ values  # (B, T, C)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """How much each token takes from each token, in shares that sum to 1: (B, T, T)."""
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])  # (B, T, T)
        return hide(scores, mask, causal=self.causal).softmax(dim=-1)
