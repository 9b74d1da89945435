"""Several causal heads side by side: each attends in its own way, and their outputs are concatenated.

Build a Large Language Model (From Scratch), section 3.6.1.
"""

import torch
from torch import Tensor, nn

from gptlab.model.attention.base import UncachedAttention
from gptlab.model.attention.causal import CausalHead


class StackedAttention(UncachedAttention):
    """H heads of D = C / H, one after the other, without a projection of what they found."""

    causal = True
    family = "stacked"

    def __init__(self, *, d_model: int, n_heads: int, context_length: int, dropout: float, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            CausalHead(d_model=d_model, head_dim=d_model // n_heads, dropout=dropout, qkv_bias=qkv_bias)
            for _ in range(n_heads)
        )

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return torch.cat([head(x, mask) for head in self.heads], dim=-1)  # (B, T, C)


def to_plain(stacked: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `StackedAttention` as those of a `PlainAttention` that computes the same.

    `plain` has the projections of all heads in one matrix, and an output projection, which becomes the identity.
    """
    n_heads = 1 + max(int(name.split(".")[1]) for name in stacked)
    plain = {}
    for kind in {name.rpartition(".")[2] for name in stacked}:  # weight, perhaps bias
        parts = [stacked[f"heads.{h}.{part}.{kind}"] for part in ("query", "key", "value") for h in range(n_heads)]
        plain[f"qkv.{kind}"] = torch.cat(parts)  # (3 C, C) or (3 C,)
    width = plain["qkv.weight"].shape[1]
    return {**plain, "out.weight": torch.eye(width), "out.bias": torch.zeros(width)}
