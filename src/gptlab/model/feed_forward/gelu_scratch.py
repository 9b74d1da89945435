"""GPT-2's feed-forward network with GELU step by step (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

import math

import torch
from torch import Tensor, nn


class GELUFeedForwardScratch(nn.Module):
    """The arithmetic of `gelu`; the parameters have the same names."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu_tanh(self.up(x)))  # (B, T, C)


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation of GELU that GPT-2 was trained with."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x: Tensor) -> Tensor:
    """X times the probability that a standard normal number is smaller: x Phi(x)."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
