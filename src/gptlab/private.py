"""The private names of other packages that gptlab uses: why each is needed, and what breaks if it changes."""

from typing import Any

import torch
from torch import Tensor, nn


def set_logged_steps(trainer: Any, step: int) -> None:
    """Set Lightning's own count of steps, by which callbacks such as LearningRateMonitor log.

    `_batches_that_stepped` has no public setter. If the name changes, such callbacks count from 0 after a resume;
    gptlab's own metrics carry their step and stay right.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def mkldnn_has_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 here. Public torch does not tell; without it old processors fail in bf16."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def mkldnn_packed(weight: Tensor, n_rows: int) -> Tensor:
    """Weights in oneDNN's order; torch has no public name for it. Without it: batches decode at half the speed."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, n_rows)


def mkldnn_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """The product with such weights. Without it: as `mkldnn_packed`."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module does more than its forward: torch keeps hooks in attributes that end with that word."""
    found = (name for name, hooks in vars(module).items() if name.endswith("hooks") and hooks)
    return any("state_dict" not in name for name in found)  # those are called when weights are saved or loaded


def tensors_without_memory() -> Any:
    """The mode of torch in which tensors have a shape, a type and a device, and nothing is computed.

    torch's documentation names it, in a module with an underscore. Without it: `gptlab plan` cannot count memory.
    """
    from torch._subclasses import FakeTensorMode

    return FakeTensorMode
