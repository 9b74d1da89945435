"""Predict each next token: the objective of pretraining."""

import math
from functools import partial
from typing import Literal

from torch import Tensor, nn

from gptlab.model import LanguageModel
from gptlab.objective.base import IGNORED, Batch, Loss
from gptlab.objective.chunked import summed_loss


class NextToken:
    """Cross-entropy in nats, summed over the target tokens.

    A batch is (inputs, targets), both (B, T): `targets[b, t]` is the token that follows `inputs[b, t]`, or -100. If
    rows hold several documents, a third tensor (B, T) numbers them (see `LanguageModel.forward`).
    """

    metrics: tuple[str, ...] = ()
    best_metric = "val/loss"
    direction: Literal["min", "max"] = "min"

    def count(self, batch: Batch) -> Tensor:
        return (batch[1] != IGNORED).sum()

    def summary(self, loss: float) -> dict[str, float]:
        return {"perplexity": perplexity(loss)}

    def __call__(self, model: LanguageModel, batch: Batch) -> Loss:
        inputs, targets, *documents = batch
        packed = {"documents": documents[0]} if documents else {}
        reduce = partial(self.summed_loss, targets=targets, vocab_size=model.vocab_size)
        loss = model(inputs, **packed, reduce=reduce)
        return Loss(loss, self.count(batch), {})

    def summed_loss(self, hidden: Tensor, head: nn.Module, *, targets: Tensor, vocab_size: int) -> Tensor:
        """Summed loss of hidden states (B, T, C) at the targets (B, T) that count, ()."""
        return summed_loss(hidden, head, targets=targets, vocab_size=vocab_size)


def perplexity(loss: float) -> float:
    """The perplexity of a mean loss in nats per token."""
    return math.exp(min(loss, 700.0))  # exp(710) is not a float
