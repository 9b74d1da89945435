"""Root mean square normalization (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from torch import nn


class RMSNorm(nn.RMSNorm):
    """Divides each token by the root of its mean square, then a learned scale: no mean, no shift."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__(d_model, eps=1e-6)
