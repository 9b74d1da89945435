"""Direct preference optimization: raise the chosen answer above the rejected one, measured from where the model began.

Rafailov et al. 2023 (arXiv:2305.18290), equation 7:

    loss = -ln sigmoid(beta ((ln p(chosen) - ln p0(chosen)) - (ln p(rejected) - ln p0(rejected))))

p0 is the reference, the model before the first step.
"""

import json
import logging
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model import LanguageModel
from gptlab.model.base import fingerprint
from gptlab.objective.base import IGNORED, Batch, Loss
from gptlab.objective.chunked import token_losses

log = logging.getLogger("gptlab")

AT_ONCE = 8  # pairs, when the reference is measured


class DPO:
    """The loss above in nats, summed over pairs.

    A batch is (inputs, targets, reference): token ids of the chosen and the rejected answers, (B, 2, T) each, and the
    reference's log-probabilities of both, (B, 2). Targets outside of the answers are -100.

    Args:
        beta: how strongly differences from the reference count.
        average: log-probabilities are means over an answer's tokens, not sums: a long answer weighs no more.
    """

    metrics = ("reward_chosen", "reward_rejected", "margin", "accuracy")
    best_metric = "val/loss"
    direction: Literal["min", "max"] = "min"
    unit = "pair"

    def __init__(self, *, beta: float, average: bool) -> None:
        if not beta > 0:
            raise ValueError(f"beta={beta} must be more than 0")
        self.beta, self.average = beta, average

    def prepare(self, model: LanguageModel, data: Any, cache: Path) -> None:
        """Measure the reference, unless it is known: `data.train`, `val` and `test` keep it, (n, 2) each.

        It is kept in the directory `cache` too, for further runs from the same weights.
        """
        parts = [part for part in (data.train, data.val, data.test) if part is not None and part.reference is None]
        if not parts:
            return
        was_training, kind = model.training, model.device.type
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        how = [fingerprint(model.named_parameters()), str(model), model.sizes, kind, autocast, self.average]
        model.eval()
        for part in parts:
            known = json.dumps([how, [(document.ids, document.n_prompt) for document in part.documents]])
            place = cache / f"{sha256(known.encode()).hexdigest()[:16]}.npy"
            if not place.is_file():
                log.info("measuring the reference of %s pairs", f"{len(part):,}")
                cache.mkdir(parents=True, exist_ok=True)
                with NamedTemporaryFile(dir=cache, delete=False) as file:
                    np.save(file, self._measured(model, part).numpy())
                Path(file.name).replace(place)
            part.reference = torch.from_numpy(np.load(place, allow_pickle=False))
        model.train(was_training)

    def count(self, batch: Batch) -> Tensor:
        return self._counts(batch).sum()

    def summary(self, loss: float) -> dict[str, float]:
        return {}

    def __call__(self, model: LanguageModel, batch: Batch) -> Loss:
        counts = self._counts(batch)  # (B,)
        rewards = self.beta * (self.log_probabilities(model, batch) - batch[2])  # (B, 2)
        margin = rewards[:, 0] - rewards[:, 1]  # (B,)
        chosen, rejected = rewards.detach().T
        measured = (chosen, rejected, margin.detach(), (margin.detach() > 0).float())
        # an index by a mask would wait for the device
        metrics = {name: (values * counts).sum() for name, values in zip(self.metrics, measured, strict=True)}
        return Loss((-F.logsigmoid(margin) * counts).sum(), counts.sum(), metrics)

    def log_probabilities(self, model: LanguageModel, batch: Batch) -> Tensor:
        """Log-probabilities of the chosen and the rejected answers, in nats, (B, 2)."""
        inputs, targets = (tensor.flatten(0, 1) for tensor in batch[:2])  # (2B, T)
        reduce = partial(token_losses, targets=targets, vocab_size=model.vocab_size)
        losses = model(inputs, reduce=reduce)  # (2B, T)
        n_tokens = (targets != IGNORED).sum(dim=1).clamp(min=1) if self.average else 1
        return (-losses.sum(dim=1) / n_tokens).unflatten(0, (-1, 2))

    def _counts(self, batch: Batch) -> Tensor:
        """Which pairs have targets, (B,)."""
        return (batch[1] != IGNORED).flatten(1).any(dim=1)

    @torch.no_grad()
    def _measured(self, model: LanguageModel, part: Any) -> Tensor:
        indices = torch.arange(len(part)).split(AT_ONCE)
        batches = (tuple(tensor.to(model.device) for tensor in part.batch(some.numpy())) for some in indices)
        return torch.cat([self.log_probabilities(model, batch) for batch in batches]).cpu()
