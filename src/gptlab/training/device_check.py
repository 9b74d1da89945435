"""Compares loss and gradient of one training step on a device with the CPU's.

Apple's GPUs have trained silently wrong (pytorch/pytorch#109457, #107294): the loss still falls, only less far.
"""

import copy
import math
from contextlib import nullcontext

import torch

from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.objective import Batch, Objective

BUDGET = 2e11  # floating-point operations for the CPU: a second on two cores of a server
DTYPES = {  # and the accepted difference of loss (nats per token) and gradient norm: relative, and absolute below 1
    "64": (torch.float64, 1e-3),
    "32": (torch.float32, 1e-3),
    "16": (torch.float16, 0.02),
    "bf16": (torch.bfloat16, 0.05),
}
"""300 random models differed by at most 2e-7 in fp32, 2e-4 in fp16 and 3e-3 in bf16. Known faults are far above."""


def compare(model: LanguageModel, objective: Objective, batch: Batch, *, device: str, precision: str) -> str:
    """One training step without dropout, on the device and, in fp32, on the CPU.

    The device gets all rows at once, as in training, and the CPU one by one: an error in large tensors shows.

    Args:
        model, objective: unchanged; copies of the model compute.
        batch: is cut to the rows that the CPU can afford, at least one.
        device, precision: cpu, cuda or mps; one of Lightning's names.

    Returns:
        Mean loss (nats per token) and gradient norm, each on the device and on the CPU, as text.

    Raises:
        UserError: if they differ by more than the precision explains, or are not finite.
    """
    row_cost = 6 * sum(parameter.numel() for parameter in model.parameters()) * batch[0][0].numel()  # arXiv:2001.08361
    batch = tuple(part[: max(1, int(BUDGET / row_cost))] for part in batch)
    rows = [tuple(part[row : row + 1] for part in batch) for row in range(len(batch[0]))]
    short, _, kind = precision.partition("-")
    dtype, tolerance = DTYPES[short]
    cpu_loss, cpu_norm = _step(_copy(model, "cpu", torch.float32), objective, rows)
    with torch.autocast(device, dtype=dtype) if kind == "mixed" else nullcontext():
        loss, norm = _step(_copy(model, device, dtype if kind == "true" else torch.float32), objective, [batch])
    found = f"loss {loss:.6g} / {cpu_loss:.6g}, gradient norm {norm:.6g} / {cpu_norm:.6g}"
    pairs = ((loss, cpu_loss), (norm, cpu_norm))
    if not all(math.isclose(*pair, rel_tol=tolerance, abs_tol=tolerance) for pair in pairs):
        raise UserError(
            f"{device} computes one training step otherwise than the CPU ({found}): update torch, train with "
            f"trainer=cpu, or train all the same with check_device=false"
        )
    return found


def _copy(model: LanguageModel, device: str, dtype: torch.dtype) -> LanguageModel:
    """Without gradients and without dropout."""
    copied = copy.deepcopy(model).to(device, dtype).eval()
    copied.zero_grad()
    return copied


def _step(model: LanguageModel, objective: Objective, batches: list[Batch]) -> tuple[float, float]:
    """Mean loss and gradient norm. Sums of the loss, unlike means, are large enough for fp16 without scaling."""
    loss, count = 0.0, 0
    for batch in batches:
        result = objective(model, tuple(part.to(model.device) for part in batch))
        result.sum.backward()
        loss += float(result.sum.detach())
        count += int(result.count)
    norms = [parameter.grad.float().norm() for parameter in model.parameters() if parameter.grad is not None]
    return loss / count, float(torch.stack(norms).norm()) / count
