"""Optimizer factories: model -> optimizer. A factory owns its parameter groups."""

import math

from torch import nn
from torch.optim import AdamW


def adamw(model: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) that decays matrices only.

    Biases and the gains of norms have fewer than two dimensions and do not decay.

    Args:
        model: whose parameters are optimised.
        lr: learning rate, before the schedule's factor.
        betas: decay of the averages of gradient and squared gradient.
        eps: added to the denominator.
        weight_decay: times lr, the share that a matrix loses at each step.

    Raises:
        ValueError: a value below 0 or not finite, or another one that torch's AdamW refuses.
    """
    for name, value in {"lr": lr, "weight_decay": weight_decay, "eps": eps}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} must be 0 or more, and finite")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in parameters)
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=fused)
