"""The same arithmetic in one kernel that never holds the T x T weights (Dao et al. 2022, arXiv:2205.14135)."""

import torch.nn.functional as F
from torch import Tensor

from gptlab.model.attention.plain import PlainAttention, allowed_keys


class FusedAttention(PlainAttention):
    """`PlainAttention` through torch's scaled_dot_product_attention; the parameters have the same names."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        n_queries, n_keys = queries.shape[2], keys.shape[2]
        whole = mask is None and n_queries == n_keys  # the kernel's own causal mask costs nothing
        last_only = mask is None and n_queries == 1  # the newest token may look at everything
        allowed = None if whole or last_only else allowed_keys(n_queries, n_keys, mask, queries.device)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=whole and n_queries > 1,
        )
