"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): each matrix moves by an orthogonal step.

Shapes: M matrices of one shape, (O, I) each.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW, Optimizer

from gptlab.model import LanguageModel
from gptlab.training.optimizers import adamw_of, check_finite

log = logging.getLogger("gptlab")

A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of Jordan's polynomial: it brings singular values near 1 in few iterations, not exactly to 1."""

MOST_STACKED = 1 << 24
"""The most numbers of matrices that move together: a large model's are worth no copies."""


def muon(
    model: LanguageModel,
    *,
    lr: float,
    momentum: float,
    iterations: int,
    adamw_lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Optimizer:
    """Muon for the matrices of a model's blocks, AdamW for everything else that trains.

    AdamW trains embeddings, the head, and vectors such as biases: their singular values mean little. Matrices of an
    adapter are in the blocks, so Muon trains them.

    Args:
        model: the model to train.
        lr: learning rate of the matrices, before the schedule's factor. A step changes their entries by 0.2 lr (root
            mean square), about as much as AdamW's would, so learning rates known from AdamW are a good start.
        momentum: decay of the average of gradients.
        iterations: of Newton and Schulz.
        adamw_lr, betas, eps: of AdamW.
        weight_decay: times the learning rate, the share that a matrix or an embedding loses at each step.

    Raises:
        ValueError: momentum outside [0, 1), no iterations, or a value that `adamw` refuses.
    """
    check_finite(lr=lr, adamw_lr=adamw_lr, weight_decay=weight_decay, eps=eps)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} must lie in [0, 1)")
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1")
    matrices = _matrices(model)
    taken = {id(matrix) for matrix in matrices}
    others = (parameter for parameter in model.parameters() if id(parameter) not in taken)
    adamw = adamw_of(others, lr=adamw_lr, betas=betas, eps=eps, weight_decay=weight_decay)
    if not matrices:
        log.warning("%s has no matrices below its head: AdamW trains all of it, not Muon", type(model).__name__)
        return adamw
    group = {"params": matrices, "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
    return Muon(group, adamw)


def _matrices(model: LanguageModel) -> list[nn.Parameter]:
    """What trains below the head and has two dimensions, without embeddings and what shares their weights."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    left_out = {id(parameter) for module in (*tables, model.head) for parameter in module.parameters()}
    found = (p for p in model.trunk.parameters() if p.requires_grad and p.dim() == 2 and id(p) not in left_out)
    return list(found)


class Muon(Optimizer):
    """One optimizer to its caller: a group of matrices, and the groups of an AdamW, which steps along.

    AdamW shares its groups and its state with this optimizer, so that saving, loading and schedules see one whole.

    Args:
        group: `params` (matrices), `lr`, `momentum`, `weight_decay` and `iterations`.
        adamw: over all other parameters.
    """

    found_inf: Tensor | None = None
    """As in torch's fused optimizers: 1.0, (), leaves weights and state as they are."""

    def __init__(self, group: dict[str, Any], adamw: AdamW) -> None:
        self._adamw = adamw
        super().__init__([group, *adamw.param_groups], defaults={})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # also after load_state_dict, which makes new groups
        self._share()

    @property
    def looks_at_found_inf(self) -> bool:
        return self._adamw.defaults["fused"]

    def _share(self) -> None:
        self._adamw.state, self._adamw.param_groups = self.state, self.param_groups[1:]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of each. `closure` computes the gradients; its value is returned."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        group = self.param_groups[0]
        alike = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                alike[matrix.shape].append(matrix)
        for shape, matrices in alike.items():
            n = max(1, MOST_STACKED // shape.numel())
            for start in range(0, len(matrices), n):
                self._move(matrices[start : start + n], group)
        self._adamw.found_inf = self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()
        return result

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Step matrices of one shape, together: small products one by one leave a device idle."""
        states = [self.state[matrix] for matrix in matrices]
        for state, matrix in zip(states, matrices, strict=True):
            state.setdefault("momentum", torch.zeros_like(matrix))
        weights = torch.stack(matrices)  # (M, O, I)
        gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
        averages = torch.stack([state["momentum"] for state in states])
        new_averages = averages.lerp(gradients, 1 - group["momentum"])
        looking_ahead = gradients.lerp(new_averages, group["momentum"])  # Nesterov's: this gradient's share twice
        directions = orthogonal(_whole(looking_ahead), iterations=group["iterations"])
        if isinstance(looking_ahead, DTensor):  # every rank has computed the same
            place = looking_ahead.device_mesh, looking_ahead.placements
            directions = distribute_tensor(directions, *place, src_data_rank=None)
        # entries of an orthogonal matrix have the root mean square 1 / sqrt(max(O, I)) (Liu et al. 2025, section 2.2,
        # arXiv:2502.16982); those of an AdamW step about 0.2
        scale = 0.2 * math.sqrt(max(matrices[0].shape))
        new_weights = weights * (1 - group["lr"] * group["weight_decay"])
        new_weights.add_(directions, alpha=-group["lr"] * scale)
        if self.found_inf is not None:
            is_taken = self.found_inf == 0
            new_weights = torch.where(is_taken, new_weights, weights)
            new_averages = torch.where(is_taken, new_averages, averages)
        for matrix, state, weight, average in zip(matrices, states, new_weights, new_averages, strict=True):
            matrix.copy_(weight)
            state["momentum"].copy_(average)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # of sharded weights


def orthogonal(matrices: Tensor, *, iterations: int) -> Tensor:
    """Near each matrix the nearest one with orthonormal rows or columns, by Newton and Schulz: (M, O, I) to (M, O, I).

    Singular values end between about 0.7 and 1.2, which serves as well as 1. On CUDA the products are in bfloat16, as
    in the original; a CPU is no faster with it.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    x = x.bfloat16() if x.is_cuda else x
    for _ in range(iterations):
        gram = x.mT @ x if is_tall else x @ x.mT  # (M, S, S), S the shorter side
        factor = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        x = torch.baddbmm(x, x, factor, beta=A) if is_tall else torch.baddbmm(x, factor, x, beta=A)
    return x.to(matrices.dtype)
