"""The exact loss of a text, window by window.

Shapes are those of gptlab.model; n is the number of targets that count.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import LanguageModel
from gptlab.objective import Batch
from gptlab.objective.base import IGNORED
from gptlab.objective.next_token import perplexity

M = TypeVar("M")

LOGITS_AT_ONCE = 1 << 24  # 64 MB in float32; all logits of a batch of GPT-2's would be gigabytes


@dataclass(frozen=True)
class TextLoss:
    """Running loss sum (nats) and target count."""

    sum: float
    count: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.sum / self.count

    @property
    def perplexity(self) -> float:
        return perplexity(self.mean)


def running_loss(model: LanguageModel, batches: Iterable[Batch]) -> Iterator[TextLoss]:
    """The loss so far, after each batch; the last one is the text's.

    A target of -100 does not count. Cross-entropy is taken in float32 and summed in double precision.
    """
    total, count = 0.0, 0
    measure = partial(F.cross_entropy, reduction="none")
    for inputs, targets, *documents in batches:  # their numbers, if attention stays within them
        for losses in at_targets(model, inputs, targets, measure, *documents):  # (n,)
            total += float(losses.cpu().double().sum())
            count += len(losses)
        yield TextLoss(total, count)


@torch.inference_mode()
def at_targets(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    measure: Callable[[Tensor, Tensor], M],
    documents: Tensor | None = None,
) -> list[M]:
    """Measure the logits of targets that count, row by row, few at a time, so that memory stays bounded.

    Args:
        inputs, targets: (B, T); if a target is -100, its logits are not computed.
        measure: called for each chunk with logits (n, V) in float32 and targets (n,), on the model's device.
        documents: (B, T), the number of each token's document, as in the model's contract.
    """
    inputs, targets = inputs.to(model.device), targets.to(model.device)
    counts = targets != IGNORED  # (B, T)
    at_once = max(1, LOGITS_AT_ONCE // model.vocab_size)

    def reduce(hidden: Tensor, head: nn.Module) -> list[M]:
        chunks = zip(hidden[counts].split(at_once), targets[counts].split(at_once), strict=True)
        return [measure(head(some).float(), wanted) for some, wanted in chunks]

    context = {} if documents is None else {"documents": documents.to(model.device)}
    return model(inputs, reduce=reduce, **context)
