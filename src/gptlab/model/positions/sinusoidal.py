"""Sines and cosines of many wavelengths: nothing is learned (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""

import torch
from torch import Tensor, nn


class SinusoidalPositions(nn.Module):
    """The first half of the numbers are sines, the second cosines, of wavelengths from 2 pi to 10,000 times 2 pi.

    Args:
        amplitude: of the sines. The paper multiplies token vectors by sqrt(C) instead, so that the two have one size.
    """

    is_endless = True

    def __init__(self, *, d_model: int, context_length: int, amplitude: float) -> None:
        super().__init__()
        if d_model % 2 != 0:
            raise ValueError(f"sinusoidal positions need an even d_model, and d_model={d_model}")
        self.d_model, self.amplitude = d_model, amplitude

    def forward(self, positions: Tensor) -> Tensor:
        pairs = torch.arange(0, self.d_model, 2, device=positions.device, dtype=torch.float32)  # (C / 2,)
        angles = positions[..., None] / 10_000 ** (pairs / self.d_model)  # (T, C / 2) or (B, T, C / 2)
        return self.amplitude * torch.cat([angles.sin(), angles.cos()], dim=-1)

    def shorten(self, context_length: int) -> None:
        """There is no table to cut."""
