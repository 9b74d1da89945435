"""Compile a model's blocks, or checkpoint their activations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from gptlab.model.base import LanguageModel


def compile_blocks(model: LanguageModel) -> None:
    """Let torch's compiler make one kernel of many operations; names of parameters stay.

    Blocks share what is compiled for the first of them; a model without blocks compiles its whole trunk. Shapes are
    dynamic: the last batch of a validation compiles nothing, and what is compiled does not depend on which batch came
    first, so that a resumed run computes with the same kernels.
    """
    for part in blocks_of(model) or [model.trunk]:
        part.compile(dynamic=True)


def checkpoint_activations(model: LanguageModel) -> None:
    """Keep only each block's input, and compute the rest again in the backward pass (Chen et al. 2016,
    arXiv:1604.06174). Losses and gradients stay the same to the bit.

    Raises ValueError if the model has no blocks.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ValueError(f"activation_checkpointing=true: {type(model).__name__} has no blocks; use false")
    for block in blocks:
        block.forward = partial(_forward, block.forward)


def blocks_of(model: LanguageModel) -> list[Any]:
    """Those of its trunk, in order; none if it has none."""
    return list(getattr(model.trunk, "blocks", ()))


def _forward(forward: Callable[..., Any], *inputs: Any, **context: Any) -> Any:
    if torch.is_grad_enabled() and context.get("cache") is None:
        return checkpoint(forward, *inputs, use_reentrant=False, **context)
    return forward(*inputs, **context)
