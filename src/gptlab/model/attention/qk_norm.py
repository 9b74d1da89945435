"""Grouped attention with normalised queries and keys: the scores stay small however long training lasts.

Henry et al. 2020, arXiv:2010.04245; as in Qwen3.
"""

from typing import Any

from torch import Tensor

from gptlab.model.attention.grouped import GroupedAttention
from gptlab.model.norm.rmsnorm import RMSNorm


class QKNormAttention(GroupedAttention):
    """`GroupedAttention` with an RMSNorm over the D numbers of each query and each key."""

    family = "qk_norm"

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.query_norm = RMSNorm(d_model=self.head_dim)
        self.key_norm = RMSNorm(d_model=self.head_dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = super().project(x)
        precise = self.query_norm.weight.dtype  # autocast makes queries and keys of half precision
        queries, keys = self.query_norm(queries.to(precise)), self.key_norm(keys.to(precise))
        return queries.to(values.dtype), keys.to(values.dtype), values
