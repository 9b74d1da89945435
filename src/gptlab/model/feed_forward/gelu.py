"""GPT-2's feed-forward network (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

from torch import Tensor, nn


class GELUFeedForward(nn.Module):
    """MLP with 4x hidden size and GELU."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model)
        self.gelu = nn.GELU(approximate="tanh")  # GPT-2 was trained with this approximation
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))  # (B, T, C)
