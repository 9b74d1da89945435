"""Predict each next token: the objective of pretraining."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlab.objective.base import Batch, Loss

IGNORED = -100
"""A target with this value is left out, from the loss and from its count."""

MOST_LOGITS = {"mps": 1 << 28}
"""The most logits that a kind of device is given at once; one that is not named here gets all of a batch.

On MPS a head's product with 9 x 1024 tokens and 50,304 words (4.6e8 logits) was wrong without a word, where 8 x 1024
was right (pytorch/pytorch#109457); trainings there have turned nan (#107294). 2^28 are a gibibyte in float32.
"""


class NextToken:
    """Cross-entropy in nats, summed over the target tokens.

    A batch is (inputs, targets), both (B, T): `targets[b, t]` is the token that follows `inputs[b, t]`, or -100.
    """

    metrics: tuple[str, ...] = ()

    def count(self, batch: Batch) -> Tensor:
        _, targets = batch
        return (targets != IGNORED).sum()

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        inputs, targets = batch
        most_logits = MOST_LOGITS.get(inputs.device.type)
        if most_logits is None:
            logits = model(inputs)  # (B, T, V)
            loss = _cross_entropy(logits.flatten(0, 1), targets.flatten())
        else:
            loss = _in_chunks(model, inputs, targets, most_logits)
        return Loss(loss, self.count(batch), {})


def _in_chunks(model: Any, inputs: Tensor, targets: Tensor, most_logits: int) -> Tensor:
    """The same loss, with the logits of some tokens at a time; backward computes them again rather than keep them."""

    def chunk_loss(hidden: Tensor, targets: Tensor) -> Tensor:
        return _cross_entropy(model.head(hidden), targets)

    n_tokens = max(1, most_logits // model.head.out_features)
    hidden = model.trunk(inputs).flatten(0, 1)  # (B * T, C)
    chunks = list(zip(hidden.split(n_tokens), targets.flatten().split(n_tokens), strict=True))
    if len(chunks) == 1:
        return chunk_loss(*chunks[0])
    losses = [
        checkpoint(chunk_loss, *chunk, use_reentrant=False, preserve_rng_state=False)  # a head draws nothing
        for chunk in chunks
    ]
    return torch.stack(losses).sum()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed over the targets: (n, V) and (n,) to ()."""
    return F.cross_entropy(
        logits.float(),  # half precision would round the loss of a large vocabulary
        targets,
        ignore_index=IGNORED,
        reduction="sum",
    )
