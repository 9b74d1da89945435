"""The same arithmetic in one kernel that never holds the T x T weights (Dao et al. 2022, arXiv:2205.14135)."""

import torch.nn.functional as F
from torch import Tensor

from gptlab.model.attention.plain import PlainAttention, allowed_keys


class FusedAttention(PlainAttention):
    """`PlainAttention` through torch's scaled_dot_product_attention; the parameters have the same names."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        n_queries, n_keys = queries.shape[2], keys.shape[2]
        allowed, is_causal = None, False
        if mask is not None or 1 < n_queries < n_keys:
            allowed = allowed_keys(n_queries, n_keys, mask, queries.device)
        elif n_queries > 1:
            is_causal = True  # the kernel's own mask costs nothing; a single query may see all keys
        dropout = self.dropout if self.training else 0.0
        shares_heads = keys.shape[1] < queries.shape[1]  # of the grouped variant
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=allowed, dropout_p=dropout, is_causal=is_causal, enable_gqa=shares_heads
        )
