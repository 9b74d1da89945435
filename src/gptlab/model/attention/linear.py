"""The same arithmetic as `manual`, with torch's linear layers in place of bare matrices."""

import math

from torch import Tensor, nn

from gptlab.model.attention.base import UncachedAttention, check_single_head, hide


class LinearAttention(UncachedAttention):
    """softmax(Q K^T / sqrt(D)) V, D = C. `nn.Linear` keeps each matrix transposed, and starts with smaller numbers."""

    causal = False
    family = "linear"

    def __init__(self, *, d_model: int, n_heads: int, context_length: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        check_single_head(self, n_heads)
        self.query = nn.Linear(d_model, d_model, bias=qkv_bias)
        self.key = nn.Linear(d_model, d_model, bias=qkv_bias)
        self.value = nn.Linear(d_model, d_model, bias=qkv_bias)

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.weights(self.query(x), self.key(x), mask) @ self.value(x)  # (B, T, C)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """How much each token takes from each token, in shares that sum to 1: (B, T, T)."""
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])  # (B, T, T)
        return hide(scores, mask, causal=self.causal).softmax(dim=-1)
