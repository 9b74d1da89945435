"""Parts of a training step: random numbers, gradients, and Lightning's counters."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from gptlab.objective import Batch
from gptlab.private import set_logged_steps


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed dropout as a function of (seed, step, rank), mixed with splitmix64's constants.

    `torch.manual_seed` seeds every kind of device; if CUDA is not in use, each call keeps a stack trace, 1.7 ms a step.
    """
    mixed = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**64
    mixed = (mixed ^ mixed >> 31) % 2**63
    torch.default_generator.manual_seed(mixed)
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).manual_seed(mixed)


def split(batch: Batch, n_rows: int) -> list[Batch]:
    """Micro-batches of at most `n_rows` rows."""
    parts = [part.split(n_rows) for part in batch]
    return list(zip(*parts, strict=True))


def set_lr(optimizer: LightningOptimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its configured one."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def gradient_sync(strategy: Any, *, now: bool) -> AbstractContextManager:
    """Delays DDP's all-reduce until the last micro-batch."""
    return nullcontext() if now else getattr(strategy, "block_backward_sync", nullcontext)()


def clip(weights: list[Any], limit: float) -> Tensor:
    """Clip the gradient of all weights and return its norm over all ranks, ()."""
    norm = clip_grad_norm_(weights, limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm  # of sharded weights


def gradient_scale(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> float:
    """Factor on the gradients before the optimizer steps: a fused optimizer unscales them in its own step."""
    return float(scaler.get_scale()) if scaler is not None and _is_fused(optimizer) else 1.0


def drop_gradient(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Make the optimizer skip its step. With a scaler, a fused one looks for infinite gradients in the step itself."""
    is_checked_later = scaler is not None and _is_fused(optimizer)
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if parameter.grad is not None:
            parameter.grad = parameter.grad.fill_(math.inf) if is_checked_later else None


def can_skip_by_flag(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> bool:
    """Whether `skip_if` works: torch's fused optimizers look at the flag, except on MPS, and not for sharded weights.

    A scaler has its own.
    """
    weight = next(p for group in optimizer.param_groups for p in group["params"])
    if scaler is not None or weight.device.type == "mps" or isinstance(weight, DTensor):
        return False
    return getattr(optimizer, "looks_at_found_inf", _is_fused(optimizer))


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return optimizer.defaults.get("fused", False)


def skip_if(flag: Tensor | None, optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's next step change nothing if the flag is 1.0, (), which the host does not have to know."""
    optimizer.found_inf = flag  # type: ignore[attr-defined] # as GradScaler tells its optimizers


def log(trainer: L.Trainer, metrics: dict[str, float]) -> None:
    """Give the metrics of a step to loggers and callbacks.

    It is what `LightningModule.log` does in the end; that takes half a millisecond for each number.
    """
    exact = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
    trainer.callback_metrics.update(exact)
    trainer.logged_metrics.update(exact)
    trainer.progress_bar_metrics.update({name: value for name, value in metrics.items() if name.endswith("/loss")})
    for logger in trainer.loggers:
        logger.log_metrics(metrics, trainer.global_step)
        logger.save()


def start_at(trainer: L.Trainer, step: int) -> None:
    """Begin Lightning's counters at `step`: its own restoring may repeat or omit a validation."""
    loop = trainer.fit_loop.epoch_loop
    for progress in (loop.manual_optimization.optim_step_progress.total, loop.batch_progress.total):
        progress.ready = progress.completed = step  # trainer.global_step, and when to validate
    set_logged_steps(trainer, step)
