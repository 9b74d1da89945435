"""Attention weights and hidden states of a model, layer by layer."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.model.attention.plain import PlainAttention
from gptlab.model.base import Captured


class RecordingAttention(PlainAttention):
    """The plain variant with the projections of another attention; keeps the attention weights of its last call.

    A fused kernel never holds the weights; the plain arithmetic does. The output is that of the other attention, so
    that the model's predictions stay the same. ValueError in `forward` if it is not what the weights make.
    """

    def __init__(self, attention: PlainAttention) -> None:
        nn.Module.__init__(self)  # the projections exist already
        self.n_heads, self.head_dim, self.dropout = attention.n_heads, attention.head_dim, attention.dropout
        self.qkv, self.out = attention.qkv, attention.out
        self.recorded = torch.empty(0)  # (B, H, T, T)
        self._attention = attention

    def forward(self, x: Tensor, **context: Any) -> Tensor:
        plain = super().forward(x, **context)
        own = self._attention(x, **context)
        tolerance = torch.finfo(own.dtype).eps ** 0.5  # relative to the norm: kernels round differently
        if (own - plain).float().norm() > tolerance * own.float().norm():
            kind = type(self._attention).__name__
            raise ValueError(f"{kind} computes something other than PlainAttention: its weights cannot be shown")
        return own

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        self.recorded = super().weights(queries, keys, mask)
        return self.recorded


@torch.no_grad()
def capture(model: Any, tokens: Tensor) -> Captured:
    """What a GPT computes on its way: the residual stream after each block, and attention weights if all have some.

    It runs on a copy in evaluation mode that shares every parameter, so a run can be inspected while it trains.
    """
    twin = copy.deepcopy(model, memo={id(parameter): parameter for parameter in model.parameters()})
    streams: list[Tensor] = []
    for block in twin.trunk.blocks:
        if isinstance(block.attention, PlainAttention) and block.attention.family == PlainAttention.family:
            block.attention = RecordingAttention(block.attention)
        block.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    final = twin.eval().trunk(tokens)  # (1, T, C), normed
    hidden = torch.cat([*(twin.trunk.norm(stream) for stream in streams), final])  # (L + 1, T, C)
    recorded = [part.recorded for part in twin.modules() if isinstance(part, RecordingAttention)]  # each (1, H, T, T)
    shows_all = 0 < len(recorded) == len(twin.trunk.blocks)
    return Captured(hidden=hidden, attention=torch.cat(recorded).float().cpu() if shows_all else None)
