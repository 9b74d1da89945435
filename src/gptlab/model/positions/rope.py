"""Rotary positions: queries and keys are turned by an angle that grows with the position.

The product of a query and a key then depends on their distance alone (Su et al. 2021, arXiv:2104.09864).
"""

from typing import Any

import torch
from torch import Tensor, nn


class RotaryPositions(nn.Module):
    """Adds nothing to token vectors; each attention calls `rotate` on its queries and keys.

    Args:
        base: the slowest pair of numbers turns once in up to 2 pi `base` positions.
    """

    is_endless = True

    def __init__(self, *, d_model: int, context_length: int, base: float) -> None:
        super().__init__()
        if base <= 1:
            raise ValueError(f"base={base} must be more than 1")
        self.base = base

    def forward(self, positions: Tensor) -> float:
        return 0.0

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn each pair (x[i], x[i + D/2]) by position / base^(2 i / D).

        Args:
            x: queries or keys, (B, H, T, D).
            positions: (T,) or (B, T).
        """
        half = x.shape[-1] // 2
        pairs = torch.arange(half, device=x.device, dtype=torch.float32)  # in half precision positions would collide
        frequencies = self.base ** (-pairs / half)  # (D / 2,)
        angles = positions[..., None] * frequencies  # (T, D / 2) or (B, T, D / 2)
        if angles.dim() == 3:
            angles = angles[:, None]  # (B, 1, T, D / 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.split(half, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def attach(self, attention: Any) -> None:
        """Let an attention rotate. Raises ValueError if it cannot, or if its heads have no pairs."""
        if not hasattr(attention, "rotate"):
            kind = type(attention).__name__
            raise ValueError(f"rotary positions need an attention such as fused; {kind} needs model/positions=learned")
        if attention.head_dim % 2 != 0:
            raise ValueError(f"rotary positions need an even head_dim, and d_model / n_heads = {attention.head_dim}")
        attention.rotate = self.rotate

    def shorten(self, context_length: int) -> None:
        """There is no table to cut."""
