"""Causal multi-head self-attention, step by step (Vaswani et al. 2017, arXiv:1706.03762, section 3.2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.attention.base import Attention
from gptlab.model.cache import LayerCache


def allowed_keys(n_queries: int, n_keys: int, mask: Tensor | None, device: torch.device) -> Tensor:
    """Which key each query may see: the queries are the last `n_queries` of the `n_keys` tokens.

    A query sees itself, and earlier keys that the mask allows. Padding sees itself, so that its softmax is defined.

    The mask is (B, n_keys) or (B, 1, n_queries, n_keys); None if all keys may be seen. The result is
    (n_queries, n_keys) without a mask, else (B, 1, n_queries, n_keys).
    """
    if mask is not None and mask.dim() == 2:
        mask = mask[:, None, None, :]
    if n_queries == 1 and mask is not None:
        return mask  # all keys are earlier than the newest token
    key = torch.arange(n_keys, device=device)
    query = key[n_keys - n_queries :, None]
    causal = key <= query  # (n_queries, n_keys)
    return causal if mask is None else causal & mask | (key == query)


class PlainAttention(Attention):
    """Every intermediate has a name and a shape. This variant needs no table of `context_length` keys."""

    causal = True
    family = "plain"
    uses_cache = True

    def __init__(self, *, d_model: int, n_heads: int, context_length: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.head_dim = d_model // n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=qkv_bias)  # the three projections in one product
        self.out = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        queries, keys, values = self.project(x)  # each (B, H, T, D)
        queries, keys = self.rotate(queries, positions), self.rotate(keys, positions)
        if cache is not None:
            keys, values = cache.append(keys, values)  # (B, H, past + T, D)
            queries = queries.to(keys.dtype)  # the cache may have a higher precision than the model
        context = self.attend(queries, keys, values, mask)  # (B, H, T, D)
        context = context.transpose(1, 2).flatten(2)  # (B, T, C)
        return self.out(context.to(x.dtype))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of each head: (B, T, C) to three times (B, H, T, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.n_heads, self.head_dim))  # (B, T, 3, H, D)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        return queries, keys, values

    def rotate(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Queries or keys (B, H, T, D) as they are; positions that rotate them put their own function here."""
        return x

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(QK^T / sqrt(D)) V over the allowed keys: (B, H, T, D)."""
        weights = self.weights(queries, keys, mask)  # (B, H, T, past + T)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ values

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """How much each query takes from each allowed key, in shares that sum to 1: (B, H, T, past + T)."""
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.head_dim)  # (B, H, T, past + T)
        allowed = allowed_keys(queries.shape[2], keys.shape[2], mask, queries.device)
        return scores.masked_fill(~allowed, -math.inf).softmax(dim=-1)
