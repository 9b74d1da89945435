"""Predict the label of a whole text."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model import LanguageModel
from gptlab.objective.base import IGNORED, Batch, Loss


class Classification:
    """Cross-entropy in nats, summed over texts.

    A batch is (tokens, lengths, labels): ids padded on the right (B, T), their real lengths (B,), and the number of
    each text's label (B,), or -100. `best` is the validation metric that picks best.ckpt.
    """

    metrics: tuple[str, ...] = ("accuracy",)
    unit = "text"

    def __init__(self, *, best: Literal["loss", "accuracy"]) -> None:
        self.best_metric = f"val/{best}"
        self.direction: Literal["min", "max"] = "min" if best == "loss" else "max"

    def count(self, batch: Batch) -> Tensor:
        return (batch[2] != IGNORED).sum()

    def summary(self, loss: float) -> dict[str, float]:
        return {}

    def __call__(self, model: LanguageModel, batch: Batch) -> Loss:
        tokens, lengths, labels = batch
        logits = model(tokens, lengths=lengths).float()  # (B, n_labels)
        loss = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        return Loss(loss, self.count(batch), {"accuracy": (logits.argmax(dim=-1) == labels).sum()})


@torch.inference_mode()
def confusion(model: LanguageModel, batches: Iterable[Batch], n_labels: int) -> Tensor:
    """How often texts of a label (rows) are given each label (columns), (n_labels, n_labels)."""
    counts = torch.zeros(n_labels, n_labels, dtype=torch.int64)
    for tokens, lengths, labels in batches:
        given = model(tokens.to(model.device), lengths=lengths.to(model.device)).argmax(dim=-1).cpu()
        counts.index_put_((labels, given), torch.tensor(1), accumulate=True)
    return counts


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which holds near 0 and 1 too."""
    z, share = 1.959964, n_right / n
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)
