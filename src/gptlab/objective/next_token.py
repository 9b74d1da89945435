"""Predict each next token: the objective of pretraining."""

import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.objective.base import Batch, Loss

IGNORED = -100
"""A target with this value is left out, from the loss and from its count."""


class NextToken:
    """Cross-entropy in nats, summed over the target tokens.

    A batch is (inputs, targets), both (B, T): `targets[b, t]` is the token that follows `inputs[b, t]`, or -100.
    """

    metrics = ()

    def count(self, batch: Batch) -> Tensor:
        _, targets = batch
        return (targets != IGNORED).sum()

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        inputs, targets = batch
        logits = model(inputs)  # (B, T, V)
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(),  # half precision would round the loss of a large vocabulary
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        )
        return Loss(loss, self.count(batch), {})
