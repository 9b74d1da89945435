"""Predict each next token: the objective of pretraining."""

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlab.model import LanguageModel
from gptlab.objective.base import Batch, Loss

IGNORED = -100
"""A target with this value is left out of the loss and of its count."""

MOST_LOGITS = {"mps": 1 << 28}
"""The most logits that a kind of device computes at once; without an entry here, all logits of a batch.

On MPS the head's product for 9 x 1024 tokens and 50,304 words (4.6e8 logits) was silently wrong; 8 x 1024 was right
(pytorch/pytorch#109457); trainings there have turned nan (#107294). 2^28 are a gibibyte in float32.
"""


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
        most_logits = MOST_LOGITS.get(inputs.device.type)
        if most_logits is None:
            logits = model(inputs, **packed)  # (B, T, V)
            loss = self.cross_entropy(logits.flatten(0, 1), targets.flatten())
        else:
            n_tokens = max(1, most_logits // model.vocab_size)
            in_chunks = partial(self._in_chunks, targets=targets, n_tokens=n_tokens)
            loss = model(inputs, **packed, reduce=in_chunks)
        return Loss(loss, self.count(batch), {})

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Summed over the targets that count: (n, V) and (n,) to ()."""
        logits = logits.float()  # half precision would round the loss of a large vocabulary
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")

    def _in_chunks(self, hidden: Tensor, head: nn.Module, targets: Tensor, n_tokens: int) -> Tensor:
        """The same loss, `n_tokens` at a time; backward computes their logits again instead of keeping them."""

        def chunk_loss(hidden: Tensor, targets: Tensor) -> Tensor:
            return self.cross_entropy(head(hidden), targets)

        chunks = list(zip(hidden.flatten(0, 1).split(n_tokens), targets.flatten().split(n_tokens), strict=True))
        if len(chunks) == 1:
            return chunk_loss(*chunks[0])
        # a head draws no random numbers
        losses = [checkpoint(chunk_loss, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
        return torch.stack(losses).sum()


def perplexity(loss: float) -> float:
    """The perplexity of a mean loss in nats per token."""
    return math.exp(min(loss, 700.0))  # exp(710) is not a float
