"""Whether a device computes a training step as the CPU does.

Apple's GPUs have trained silently wrong for years (pytorch/pytorch#109457, #107294): a wrong product raises nothing,
and the loss falls all the same, only not as far. One step's loss and gradient tell.
"""

import copy
import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from gptlab.errors import UserError
from gptlab.objective import Batch, Objective
from gptlab.training.devices import Hardware

log = logging.getLogger("gptlab")

BUDGET = 2e11
"""Floating-point operations that the CPU may spend: half a second on a Mac, a second on two cores of a server."""

DTYPES = {"32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16, "64": torch.float64}

TOLERANCES = {"64": 1e-3, "32": 1e-3, "16": 0.02, "bf16": 0.05}
"""How far a loss (nats per token) and a gradient norm may lie from the CPU's, in shares of it, or as they are below 1.

Honest arithmetic stays far below. Of 300 random models, fp32 was off by 2e-7 at most (other orders of summation), fp16
by 2e-4 and bf16 by 3e-3 (they round to 11 and 8 bits); gradients of trained ones cancel more. The faults that are known
are far above: the wrong product of #109457 was off by as much as the logits themselves.
"""


@dataclass(frozen=True)
class Step:
    """What one training step computes: mean loss in nats per token, and norm of its gradient."""

    loss: float
    gradient_norm: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    def is_near(self, other: "Step", tolerance: float) -> bool:
        return all(
            math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=tolerance)
            for ours, theirs in ((self.loss, other.loss), (self.gradient_norm, other.gradient_norm))
        )


@dataclass(frozen=True)
class Comparison:
    """The same step on a device and on the CPU."""

    device: str
    there: Step
    here: Step

    def __str__(self) -> str:
        return (
            f"loss {self.there.loss:.6g} / {self.here.loss:.6g}, "
            f"gradient norm {self.there.gradient_norm:.6g} / {self.here.gradient_norm:.6g}"
        )


def compare(model: nn.Module, objective: Objective, batch: Batch, *, device: str, precision: str) -> Comparison:
    """One training step without dropout, on the device and, in fp32, on the CPU.

    The device gets the rows at once, as in training. The CPU gets them one by one: sums add up exactly, and what goes
    wrong in large tensors alone goes wrong on one side alone.

    Args:
        model: stays as it is, and so do its gradients: copies compute.
        objective: its loss.
        batch: is cut to so many rows that the CPU is done within a second or two, one at least.
        device: cpu, cuda or mps.
        precision: one of Lightning's names.

    Raises:
        UserError: where the two differ by more than the precision explains, or are no numbers.
    """
    batch = tuple(part[: _affordable_rows(model, batch)] for part in batch)
    rows = [tuple(part[row : row + 1] for part in batch) for row in range(len(batch[0]))]
    short, _, kind = precision.partition("-")
    dtype = DTYPES[short] if kind == "true" else torch.float32
    here = _step(_copy(model, "cpu", torch.float32), objective, rows)
    if not here.is_finite:
        raise UserError(
            f"before training, one step on the CPU gives loss {here.loss} and gradient norm {here.gradient_norm}: the "
            "weights that the run starts from are damaged"
        )
    with torch.autocast(device, dtype=DTYPES[short]) if kind == "mixed" else nullcontext():
        there = _step(_copy(model, device, dtype), objective, [batch])
    comparison = Comparison(device, there, here)
    if not (there.is_finite and there.is_near(here, TOLERANCES[short])):
        raise UserError(
            f"{device} computes one training step otherwise than the CPU ({comparison}): update torch, train with "
            f"trainer=cpu, or train all the same with check_device=false"
        )
    return comparison


def check_device(model: nn.Module, objective: Objective, batch: Batch, hardware: Hardware) -> None:
    """Compare, and say what was found. Raises UserError as `compare`."""
    found = compare(model, objective, batch, device=hardware.accelerator, precision=hardware.precision)
    log.info("%s agrees with the CPU: %s", found.device, found)


def _affordable_rows(model: nn.Module, batch: Batch) -> int:
    """A step costs about six operations a parameter and token (Kaplan et al. 2020, arXiv:2001.08361)."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    return max(1, int(BUDGET / (6 * n_parameters * batch[0][0].numel())))


def _copy(model: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Without gradients and without dropout."""
    copied = copy.deepcopy(model).to(device, dtype).eval()
    copied.zero_grad()
    return copied


def _step(model: nn.Module, objective: Objective, batches: list[Batch]) -> Step:
    """Forward and backward. Sums of the loss, not means, are large enough for fp16 to go without scaling."""
    device = next(model.parameters()).device
    loss, count = 0.0, 0
    for batch in batches:
        result = objective(model, tuple(part.to(device) for part in batch))
        result.sum.backward()
        loss += float(result.sum.detach())
        count += int(result.count)
    norms = [parameter.grad.float().norm() for parameter in model.parameters() if parameter.grad is not None]
    return Step(loss / count, float(torch.stack(norms).norm()) / count)
