"""Layer normalization (Ba et al. 2016, arXiv:1607.06450)."""

from torch import nn


class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance for each token, then a learned scale and shift."""

    def __init__(self, *, d_model: int) -> None:
        super().__init__(d_model)
