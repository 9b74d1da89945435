"""What every objective promises."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from gptlab.model import LanguageModel

Batch = tuple[Tensor, ...]
"""Tensors that share their first dimension, the sequences."""

IGNORED = -100
"""A target with this value is left out of the loss and of its count."""


@dataclass(frozen=True)
class Loss:
    """Sums, never means: sums of unequal batches add up exactly, means do not.

    Attributes:
        sum: summed loss in nats, with its gradient, ().
        count: what the sum is taken over, such as target tokens, (); a tensor, so that no device has to wait for it.
        metrics: further sums over the same count, without gradient; the keys are the objective's `metrics`.
    """

    sum: Tensor
    count: Tensor
    metrics: dict[str, Tensor]


class Objective(Protocol):
    """Turns a model and a batch into a loss.

    Attributes:
        metrics: names of further sums, such as "accuracy".
        best_metric: the validation metric that picks best.ckpt, such as "val/loss".
        direction: whether the smallest or the largest value of it is the best.
        unit: what the loss is averaged over, "text" or "pair"; "token" if there is no such attribute.

    One that measures something before the first step has `prepare(model, data, cache)`, too: the data are prepared
    (`gptlab.data.base`), and `cache` is a directory for what later runs need not measure again.
    """

    metrics: tuple[str, ...]
    best_metric: str
    direction: Literal["min", "max"]

    def count(self, batch: Batch) -> Tensor:
        """What the loss of this batch will be summed over, (), known before any forward pass."""

    def __call__(self, model: LanguageModel, batch: Batch) -> Loss:
        """The loss of one micro-batch."""

    def summary(self, loss: float) -> dict[str, float]:
        """Further metrics that follow from a mean validation loss, such as perplexity."""
