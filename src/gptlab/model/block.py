"""One transformer block: attention mixes the positions, the feed-forward network works on each by itself."""

from typing import Any

from torch import Tensor, nn


class Block(nn.Module):
    """Pre-LN: the residual stream itself is never normalised (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(
        self, *, norm1: nn.Module, attention: nn.Module, norm2: nn.Module, feed_forward: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attention = attention
        self.norm2 = norm2
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        """(B, T, C) to (B, T, C); `context` are the mask, the positions and the cache that attention takes."""
        x = x + self.dropout(self.attention(self.norm1(x), **context))
        return x + self.dropout(self.feed_forward(self.norm2(x)))
