"""Torch's smallest parts, written out: the same numbers, forward and backward."""

import torch
from torch import Tensor


def softmax(x: Tensor) -> Tensor:
    """Positive shares that sum to 1 over the last dimension; the largest is subtracted, or exp would overflow."""
    exponentials = (x - x.max(dim=-1, keepdim=True).values).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


def dropout(x: Tensor, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Each number is zero with this probability; the others grow, so that the mean stays (Srivastava et al. 2014)."""
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= probability
    return x * kept / (1 - probability)


def embed(tokens: Tensor, table: Tensor) -> Tensor:
    """A row of the table for each token is a product with one-hot vectors: (B, T) and (V, C) to (B, T, C)."""
    one_hot = torch.eye(len(table), dtype=table.dtype, device=table.device)[tokens]  # (B, T, V)
    return one_hot @ table
