"""A validation loss beside that of an ideal predictor on the same targets, for data whose answer is known."""

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gptlab.data.loader import OrderedBatches
from gptlab.training.metrics import ENTROPY_RATE
from gptlab.training.ranks import data_parallel

if TYPE_CHECKING:
    from gptlab.training.module import TrainingModule

METRICS = (ENTROPY_RATE, "val/ideal_loss", "val/excess", "val/accuracy")
LEAK_ERRORS = 4
"""Standard errors; a loss that is further under the ideal one is a leak."""


class LeakError(Exception):
    """A validation loss is lower than any honest model's."""


def compare(module: "TrainingModule", loss: float) -> dict[str, float]:
    """Further metrics of a validation with this mean loss; none for data without a known answer.

    entropy_rate is the expected loss of an ideal predictor, excess the loss above it, ideal_loss the ideal predictor's
    loss on these very targets, all in nats per target; accuracy is taken over the deterministic targets.
    The logits of all validation targets are computed once more for it.

    Raises:
        LeakError: if the loss is under the ideal one by more than chance. The differences of an honest model are at
            least 0 on average and uncorrelated between targets, so their standard error tells chance from a leak.
    """
    rate, trainer = module.data.entropy_rate, module.trainer
    if rate is None:
        return {}
    rank, n_ranks = data_parallel(trainer)
    val: Any = module.data.val
    batches = OrderedBatches(val, rows=module.micro_batch_size, rank=rank, n_ranks=n_ranks)
    total = torch.zeros(6, dtype=torch.float64)
    with trainer.precision_plugin.forward_context():
        for k in islice(range(len(batches)), int(trainer.num_val_batches[0])):  # as many as were validated
            total += _measure(module, *val.with_ideal_losses(batches.indices(k)))
    count, ideal, difference, squares, n_known, n_right = module.sum_over_ranks(total).tolist()
    ideal, difference = ideal / count, difference / count
    found = {"val/ideal_loss": ideal, "val/excess": loss - rate}
    found |= {"val/accuracy": n_right / n_known} if n_known else {}
    module.summary |= {"entropy_rate": rate, **{name.replace("/", "_"): value for name, value in found.items()}}
    error = math.sqrt(max(0.0, squares / count - difference**2) / count)
    if loss < ideal - LEAK_ERRORS * error:
        raise LeakError(
            f"val/loss {loss:.4f} is under {ideal:.4f}, the loss of an ideal predictor on the same targets, by "
            f"{(ideal - loss) / max(error, 1e-12):,.0f} standard errors: the model sees what it is to predict, or the "
            "loss is wrong (check the attention mask, the windows and the objective)"
        )
    return {ENTROPY_RATE: rate, **found}


def _measure(module: "TrainingModule", inputs: Tensor, targets: Tensor, ideal: Tensor) -> Tensor:
    """Sums over a batch, (6,): count, ideal loss, difference to it and its square; deterministic and right targets."""
    logits = module.model(inputs.to(module.device)).float().cpu()  # (B, L, V)
    loss = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").double()  # (B, L), 0 where ignored
    counts = targets >= 0
    loss, ideal = loss[counts], ideal[counts]
    difference, known = loss - ideal, ideal == 0
    right = (logits.argmax(dim=-1) == targets)[counts] & known
    columns = (counts, ideal, difference, difference**2, known, right)
    return torch.stack([column.double().sum() for column in columns])
