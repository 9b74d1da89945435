"""Grouped-query attention: several query heads share one key/value head, so the cache is smaller.

Ainslie et al. 2023, arXiv:2305.13245. With one key/value head it is multi-query attention (Shazeer 2019,
arXiv:1911.02150).
"""

from torch import Tensor, nn

from gptlab.model.attention.fused import FusedAttention


class GroupedAttention(FusedAttention):
    """`FusedAttention` with fewer key/value heads than query heads.

    Args:
        qkv_bias: whether the projections, that of the output too, have a bias.
        n_kv_heads: key/value heads, K; H must be divisible by it.
    """

    family = "grouped"

    def __init__(
        self,
        *,
        d_model: int,
        n_heads: int,
        context_length: int,
        dropout: float,
        qkv_bias: bool,
        n_kv_heads: int,
    ) -> None:
        nn.Module.__init__(self)
        if n_kv_heads < 1 or n_heads % n_kv_heads != 0:
            raise ValueError(f"n_kv_heads={n_kv_heads} must divide n_heads={n_heads}")
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.head_dim = d_model // n_heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model, bias=qkv_bias)
        self.key = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=qkv_bias)
        self.value = nn.Linear(d_model, n_kv_heads * self.head_dim, bias=qkv_bias)
        self.out = nn.Linear(d_model, d_model, bias=qkv_bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, D), and keys and values, (B, K, T, D) each."""
        projected = (self.query(x), self.key(x), self.value(x))
        queries, keys, values = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in projected)
        return queries, keys, values

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        """What each query head takes; neighbouring query heads share a key head."""
        return super().weights(queries, keys.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1), mask)
