"""Layer normalization, step by step (Ba et al. 2016, arXiv:1607.06450)."""

import torch
from torch import Tensor, nn


class LayerNormScratch(nn.Module):
    """The arithmetic of `layernorm` in four lines; the parameters have the same names."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(d_model))  # (C,)
        self.bias = nn.Parameter(torch.zeros(d_model))  # (C,)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)  # (B, T, 1)
        variance = (x - mean).square().mean(dim=-1, keepdim=True)  # (B, T, 1), divided by C and not by C - 1
        normalized = (x - mean) / (variance + self.eps).sqrt()  # (B, T, C)
        return self.weight * normalized + self.bias
