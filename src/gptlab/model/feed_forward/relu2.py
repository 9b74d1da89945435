"""Squared ReLU: most hidden numbers are exactly zero (So et al. 2021, arXiv:2109.08668)."""

import torch.nn.functional as F
from torch import Tensor, nn


class ReLU2FeedForward(nn.Module):
    """MLP with 4x hidden size and ReLU squared."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x)).square())  # (B, T, C)
