"""Attention without weights: every token becomes a mean of all tokens, the most similar ones count most.

Nothing is learned and nothing is scaled (Build a Large Language Model (From Scratch), section 3.3).
"""

from torch import Tensor

from gptlab.model.attention.base import UncachedAttention, check_single_head, hide


class NoWeightsAttention(UncachedAttention):
    """softmax(x x^T) x: the tokens are their own queries, keys and values."""

    causal = False
    family = "no_weights"

    def __init__(self, *, d_model: int, n_heads: int, context_length: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        check_single_head(self, n_heads)

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.weights(x, x, mask) @ x  # (B, T, C)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """How much each token takes from each token, in shares that sum to 1: (B, T, T)."""
        scores = queries @ keys.transpose(-2, -1)  # (B, T, T)
        return hide(scores, mask, causal=self.causal).softmax(dim=-1)
