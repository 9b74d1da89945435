"""No positions: only the causal mask tells a token how many precede it (Haviv et al. 2022, arXiv:2203.16634)."""

from torch import Tensor, nn


class NoPositions(nn.Module):
    """Token vectors stay as they are."""

    is_endless = True

    def __init__(self, *, d_model: int, context_length: int) -> None:
        super().__init__()

    def forward(self, positions: Tensor) -> float:
        return 0.0

    def shorten(self, context_length: int) -> None:
        """There is no table to cut."""
