"""Optimizer factories: model -> optimizer. A factory owns its parameter groups."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW


def adamw(model: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) that decays matrices only.

    Biases and the gains of norms have fewer than two dimensions and do not decay.

    Args:
        model: the model to train.
        lr: learning rate, before the schedule's factor.
        betas: decay of the averages of gradient and squared gradient.
        eps: added to the denominator.
        weight_decay: times lr, the share that a matrix loses at each step.

    Raises:
        ValueError: a value below 0 or not finite, or another one that torch's AdamW refuses.
    """
    check_finite(lr=lr, weight_decay=weight_decay, eps=eps)
    return adamw_of(model.parameters(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def adamw_of(
    parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> AdamW:
    """`adamw` for those of the parameters that train."""
    training = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in training if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in training if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in training)
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused)


def check_finite(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be 0 or more, and finite")
