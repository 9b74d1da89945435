"""Attention's weights, of any model whose attention does what the plain variant does."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.model.attention.plain import PlainAttention
from gptlab.model.base import Captured
from gptlab.model.block import Block
from gptlab.model.cache import LayerCache


class RecordingAttention(PlainAttention):
    """The plain variant, with the very projections of another attention, which keeps the weights of its last call.

    A fused kernel never holds the weights; the plain arithmetic does, on the same parameters. What goes on to the next
    layer is the other's own output, so that the model predicts exactly what it always does.

    Args:
        attention: whose projections are used.

    Raises:
        ValueError: where it is not a `PlainAttention`; in `forward`, where its output is not what the weights make.
    """

    def __init__(self, attention: nn.Module) -> None:
        if not isinstance(attention, PlainAttention):
            raise ValueError(f"{type(attention).__name__} has no attention weights that PlainAttention could show")
        nn.Module.__init__(self)  # the projections are there already
        self.n_heads, self.head_dim, self.dropout = attention.n_heads, attention.head_dim, attention.dropout
        self.qkv, self.out = attention.qkv, attention.out
        self.recorded = torch.empty(0)  # (B, H, T, T)
        self._attention = attention

    def forward(self, x: Tensor, *, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
        plain = super().forward(x, mask=mask)
        own = self._attention(x, mask=mask)
        tolerance = torch.finfo(own.dtype).eps ** 0.5  # of the whole: kernels round differently
        if (own - plain).float().norm() > tolerance * own.float().norm():
            kind = type(self._attention).__name__
            raise ValueError(f"{kind} mixes tokens in another way than PlainAttention: its weights cannot be shown")
        return own

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        self.recorded = super().weights(queries, keys, mask)
        return self.recorded


def recording_twin(model: Any) -> Any:
    """The same model, sharing every parameter, in evaluation mode, with attention that keeps its weights.

    The model itself is left as it is, so that a run can be looked into while it trains.

    Raises:
        ValueError: where an attention is not a `PlainAttention`.
    """
    twin = copy.deepcopy(model, memo={id(parameter): parameter for parameter in model.parameters()})
    for block in twin.trunk.blocks:
        assert isinstance(block, Block)
        block.attention = RecordingAttention(block.attention)
    return twin.eval()


def recorded_attention(twin: nn.Module) -> Tensor:
    """What the layers of a recording twin kept of its last call on one sequence: (L, H, T, T), float32, on the CPU."""
    recorded = [part.recorded for part in twin.modules() if isinstance(part, RecordingAttention)]  # each (1, H, T, T)
    return torch.cat(recorded).float().cpu()


@torch.no_grad()
def capture(model: Any, tokens: Tensor) -> Captured:
    """What a model with blocks computes on its way: the residual stream after each block, and attention's weights.

    Args:
        model: with `trunk.blocks` and `trunk.norm`; it is not changed.
        tokens: (1, T)

    Raises:
        ValueError: if an attention has no weights that can be shown.
    """
    twin = recording_twin(model)
    streams: list[Tensor] = []
    for block in twin.trunk.blocks:
        block.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
    final = twin.trunk(tokens)  # (1, T, C), normed
    hidden = torch.cat([*(twin.trunk.norm(stream) for stream in streams), final])  # (L + 1, T, C)
    return Captured(hidden=hidden, attention=recorded_attention(twin))
