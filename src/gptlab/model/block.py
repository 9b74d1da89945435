"""One transformer block: attention mixes the positions, the feed-forward network works on each by itself."""

from torch import Tensor, nn

from gptlab.model.cache import LayerCache


class FeedForward(nn.Module):
    """Widen to 4 C, bend, come back."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model)
        self.gelu = nn.GELU(approximate="tanh")  # GPT-2 was trained with this approximation of GELU
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))  # (B, T, C)


class Block(nn.Module):
    """Pre-LN: the residual stream itself is never normalised (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, *, d_model: int, dropout: float, attention: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(d_model)
        self.attention = attention
        self.norm2 = nn.LayerNorm(d_model)
        self.feed_forward = FeedForward(d_model=d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask=mask, cache=cache))
        return x + self.dropout(self.feed_forward(self.norm2(x)))  # (B, T, C)
