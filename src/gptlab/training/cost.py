"""What one training step costs, counted on tensors without memory: floating-point operations, and bytes alive.

Model, objective and optimizer themselves run, so that any of them is counted, not only a GPT.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gptlab.errors import UserError
from gptlab.model import LanguageModel
from gptlab.objective import Batch, Objective
from gptlab.training.device_check import DTYPES
from gptlab.training.devices import Hardware


def n_non_embedding(model: nn.Module) -> int:
    """Parameters without embeddings; a head that is tied to one is left out, too."""
    tables = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return sum(parameter.numel() for parameter in model.parameters() if parameter not in tables)


def flops_per_token(model: LanguageModel, objective: Objective, batch: Batch) -> float:
    """Floating-point operations of forward and backward, for each input token; attention counts all T x T scores.

    Args:
        model: on the meta device.
        objective, batch: as in training; the values of the batch do not matter.

    Raises:
        UserError: if they cannot be counted.
    """
    math_kernel = sdpa_kernel(SDPBackend.MATH)  # the backward pass of fused ones recomputes
    no_values = torch.autograd.set_detect_anomaly(False)  # it looks at values
    with no_values, math_kernel, FlopCounterMode(display=False) as counter:
        _loss(model, objective, tuple(part.to("meta") for part in batch)).backward()
    return counter.get_total_flops() / batch[0].numel()


def step_memory(
    make_model: Callable[[], LanguageModel],
    objective: Objective,
    make_optimizer: Callable[[LanguageModel], torch.optim.Optimizer],
    batch: Batch,
    *,
    hardware: Hardware,
    accumulates: bool,
) -> dict[str, int]:
    """Bytes that a training step holds on a device that is alone, by kind, when the optimizer has its state.

    Args:
        make_model: returns the model on hardware's device; it is called where tensors have no memory.
        batch: one micro-batch; its values do not matter.
        accumulates: whether the step has several micro-batches: gradients then lie beside activations.

    Returns:
        weights, gradients, optimizer; activations (what the trunk keeps for backward); loss (what head and loss take
        besides, at their most); all (the most at one time: less than the sum, if gradients follow activations).

    Raises:
        UserError: if they cannot be counted.
    """
    from gptlab.training.live_memory import LiveMemory  # imports sympy: half a second

    short, _, kind = hardware.precision.partition("-")
    dtype, device = DTYPES[short][0], hardware.accelerator
    with LiveMemory() as live:
        model = make_model().train()
        if kind == "true":
            for parameter in model.parameters():  # model.to() cannot replace parameters in this mode
                parameter.data = parameter.data.to(dtype)
        weights = live.now
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        gradients = live.now - weights
        optimizer = make_optimizer(model)
        optimizer.step()
        state = live.now - weights - gradients
        if not accumulates:
            optimizer.zero_grad()

        batch = tuple(torch.zeros(part.shape, dtype=part.dtype, device=device) for part in batch)
        trunk = [live.now]  # bytes before it, and after it
        model.trunk.register_forward_hook(lambda *_: trunk.append(live.now))
        with torch.autocast(device, dtype=dtype) if kind == "mixed" else nullcontext():
            live.peak = 0
            loss = _loss(model, objective, batch)
            besides = live.peak - trunk[-1]
            loss.backward()
            optimizer.step()
    kinds = {"weights": weights, "gradients": gradients, "optimizer": state}
    return kinds | {"activations": trunk[-1] - trunk[0], "loss": besides, "all": live.peak}


def _loss(model: LanguageModel, objective: Objective, batch: Batch) -> Tensor:
    try:
        return objective(model, batch).sum
    except Exception as error:  # of a module of the user's, which may look at values
        names = f"{type(model).__name__} with {type(objective).__name__}"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{names} cannot be counted without computing it: {reason}") from error
