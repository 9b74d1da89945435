"""The exact loss of a text, window by window.

Shapes are those of gptlab.model; n is the number of targets that count.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model import GPT
from gptlab.objective import Batch
from gptlab.objective.next_token import IGNORED

LOGITS_AT_ONCE = 1 << 24  # 64 MB in float32; all logits of a batch of GPT-2's would be gigabytes


@dataclass(frozen=True)
class TextLoss:
    """Of the targets so far: summed loss in nats, and their number."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.sum / self.count

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.mean, 700.0))  # exp(710) is no float any more


def running_loss(model: GPT, batches: Iterable[Batch]) -> Iterator[TextLoss]:
    """The loss so far, after each batch; the last one is the text's.

    Cross-entropy is taken in float32 whatever the weights are, and summed in double precision.

    Args:
        model: in evaluation mode.
        batches: (inputs, targets), (B, T) each; a target of -100 does not count.
    """
    total, count = 0.0, 0
    for inputs, targets in batches:
        for logits, wanted in logits_at_targets(model, inputs, targets):
            losses = F.cross_entropy(logits, wanted, reduction="none")  # (n,)
            total += float(losses.cpu().double().sum())
            count += len(losses)
        yield TextLoss(total, count)


@torch.inference_mode()
def logits_at_targets(model: GPT, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits where a target counts, and the targets, row by row; so many at a time that memory stays bounded.

    Args:
        model: in evaluation mode.
        inputs, targets: (B, T); where a target is -100, no logits are computed.

    Yields:
        (n, V) float32, (n,), on the model's device
    """
    device = model.device
    inputs, targets = inputs.to(device), targets.to(device)
    counts = targets != IGNORED  # (B, T)
    hidden, wanted = model.trunk(inputs)[counts], targets[counts]  # (n, C), (n,)
    at_once = max(1, LOGITS_AT_ONCE // model.head.out_features)
    for some_hidden, some_wanted in zip(hidden.split(at_once), wanted.split(at_once), strict=True):
        yield model.head(some_hidden).float(), some_wanted
