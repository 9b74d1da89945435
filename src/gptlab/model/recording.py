"""Attention weights and hidden states of a model, layer by layer."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gptlab.model.base import Captured


class Recorder:
    """Keeps the attention weights of the last forward pass of one attention, head by head.

    Every part with a `weights` method is listened to. A fused kernel never calls it: the weights are then computed
    beside it, and must make what the kernel made (ValueError in the forward pass if they do not).
    """

    def __init__(self, attention: Any) -> None:
        self.parts = [part for part in attention.modules() if inspect.ismethod(getattr(part, "weights", None))]
        self.maps: dict[int, Tensor] = {}
        self._attention = attention
        for index, part in enumerate(self.parts):
            part.weights = partial(self._listen, index, part.weights)
        if hasattr(attention, "attend"):
            attention.attend = partial(self._check, attention.attend)

    def stop(self) -> None:
        """Leave the attention as it was."""
        for part in self.parts:
            del part.weights
        if hasattr(self._attention, "attend"):
            del self._attention.attend

    def _listen(self, index: int, weights: Callable[..., Tensor], *inputs: Any) -> Tensor:
        self.maps[index] = weights(*inputs)
        return self.maps[index]

    def _check(self, attend: Callable[..., Tensor], queries: Tensor, keys: Tensor, values: Tensor, mask: Any) -> Tensor:
        own, weights = attend(queries, keys, values, mask), self._attention.weights(queries, keys, mask)
        shown = weights @ values.repeat_interleave(weights.shape[1] // values.shape[1], dim=1)
        tolerance = torch.finfo(own.dtype).eps ** 0.5  # relative to the norm: kernels round differently
        if (own - shown).float().norm() > tolerance * own.float().norm():
            kind = type(self._attention).__name__
            raise ValueError(f"{kind} computes something other than its weights say: they cannot be shown")
        return own

    @property
    def weights(self) -> Tensor:
        """(1, H, T, T). ValueError if the attention did not compute its weights by these methods."""
        if len(self.maps) < len(self.parts):
            raise ValueError(f"{type(self._attention).__name__} does not use its own weights: they cannot be shown")
        return torch.cat([self.maps[index].view(1, -1, *self.maps[index].shape[-2:]) for index in sorted(self.maps)], 1)


@torch.no_grad()
def capture(model: Any, tokens: Tensor) -> Captured:
    """What a GPT computes on its way: the residual stream after each block, and attention weights if all have some.

    The model computes in evaluation mode and is left as it was, so a run can be inspected while it trains.
    """
    trunk, streams = model.trunk, list[Tensor]()

    def normed(final: Tensor, head: Any) -> Tensor:  # in the model's call, for a sharded one has its weights only there
        return torch.cat([*(trunk.norm(stream) for stream in streams), final])  # (L + 1, T, C)

    training = [module for module in model.modules() if module.training]
    recorders = [Recorder(block.attention) for block in trunk.blocks]
    hooks = [block.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])) for block in trunk.blocks]
    try:
        hidden = model.eval()(tokens, reduce=normed)
    finally:
        for hook in hooks:
            hook.remove()
        for recorder in recorders:
            recorder.stop()
        for module in training:
            module.training = True
    shows_all = recorders and all(recorder.parts for recorder in recorders)
    maps = torch.cat([recorder.weights for recorder in recorders]).float().cpu() if shows_all else None
    return Captured(hidden=hidden, attention=maps)  # (L, H, T, T)
