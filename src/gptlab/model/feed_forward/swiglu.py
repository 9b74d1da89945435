"""SwiGLU: one projection decides how much of another one passes (Shazeer 2020, arXiv:2002.05202)."""

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLUFeedForward(nn.Module):
    """down(SiLU(gate(x)) * up(x)), without biases.

    Args:
        multiple_of: the hidden size is 8/3 C, so that three matrices have as many numbers as two of 4 C, rounded up
            to a multiple of this.
    """

    def __init__(self, *, d_model: int, multiple_of: int) -> None:
        super().__init__()
        if multiple_of < 1:
            raise ValueError(f"multiple_of={multiple_of} must be at least 1")
        hidden = -(-8 * d_model // (3 * multiple_of)) * multiple_of
        self.gate = nn.Linear(d_model, hidden, bias=False)
        self.up = nn.Linear(d_model, hidden, bias=False)
        self.down = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # (B, T, C)
