"""Sums of losses: tensors on the device until they are read, exact numbers on the host after that."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptlab.objective import Loss
from gptlab.training.stops import NonFiniteGuard

RECENT_STEPS = 100
"""summary.json's train_loss is the mean over the tokens of this many last steps."""


@dataclass(frozen=True)
class Step:
    """A training step whose losses are not yet copied to the host.

    Attributes:
        number: steps done before it.
        losses: of its micro-batches, on this rank.
        gradient_norm: over all ranks, ().
        overflows: whether its gradient may be infinite now and then: the scaler of fp16 skips such a step itself.
    """

    number: int
    losses: list[Loss]
    gradient_norm: Tensor
    overflows: bool

    def is_bad(self) -> Tensor:
        """1.0 if the loss or the gradient norm is not finite, else 0.0; on the device, ()."""
        return 1.0 - sum((loss.sum for loss in self.losses), self.gradient_norm).isfinite().float()


class TrainingSums:
    """What training steps computed: on the device until it is read, then here until it is logged.

    Args:
        guard: decides about steps that are not finite.
        metrics: names of the objective's further sums.
        over_ranks: sums a tensor over all ranks.

    Attributes:
        unlogged: rows of `sums` of the steps that were read and not logged.
        recent: summed loss and tokens of the last steps.
        gradient_norm: of the last step that was read.
    """

    def __init__(self, guard: NonFiniteGuard, metrics: Sequence[str], over_ranks: Callable[[Tensor], Tensor]) -> None:
        self._guard, self._metrics, self._over_ranks = guard, metrics, over_ranks
        self._unread: list[Step] = []
        self.unlogged: list[list[float]] = []
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS)
        self.gradient_norm = math.nan

    @property
    def recent_loss(self) -> float | None:
        """Mean over the tokens of the last steps, nats per token; None before the first."""
        tokens = sum(n for _, n in self.recent)
        return sum(loss for loss, _ in self.recent) / tokens if tokens else None

    def load(self, recent: Sequence[Sequence[float]], unlogged: list[list[float]]) -> None:
        """Go on from a checkpoint."""
        self._unread, self.unlogged = [], unlogged
        self.recent.clear()
        self.recent.extend((loss, int(tokens)) for loss, tokens in recent)

    def add(self, step: Step) -> None:
        self._unread.append(step)

    def read(self) -> bool:
        """Wait for the device and read all steps, on all ranks. Returns whether the last one may be taken.

        Raises NonFiniteError if the run must end.
        """
        steps, self._unread = self._unread, []
        rows = self._over_ranks(sums([step.losses for step in steps], self._metrics)).tolist() if steps else []
        is_allowed = True
        for step, row in zip(steps, rows, strict=True):
            n_targets, loss, self.gradient_norm = int(row[0]), row[1] / row[0], float(step.gradient_norm)
            norm = 0.0 if step.overflows else self.gradient_norm
            is_allowed = self._guard.allows(step.number, loss=loss, gradient_norm=norm)
            self.unlogged.append(row)
            if math.isfinite(loss):
                self.recent.append((loss * n_targets, n_targets))
        return is_allowed

    def to_log(self) -> list[list[float]]:
        """The rows since the last log, without those whose loss is not finite unless there are no others."""
        rows, self.unlogged = self.unlogged, []
        return [row for row in rows if math.isfinite(row[1])] or rows


def means(split: str, rows: Sequence[Sequence[float]], metrics: Sequence[str]) -> dict[str, float]:
    """Means of rows of `sums` over all that they count, as `train/loss` and so on."""
    count, *totals = map(sum, zip(*rows, strict=True))
    if count == 0:
        raise ValueError(f"{split}: there is nothing to measure, none of the targets counts")
    return {f"{split}/{name}": total / count for name, total in zip(("loss", *metrics), totals, strict=True)}


def sums(groups: Sequence[Sequence[Loss]], metrics: Sequence[str]) -> Tensor:
    """Counts, summed losses and summed metrics of G groups of losses, (G, 2 + metrics), on the host.

    They are added in double precision: there may be millions of tokens.
    """
    losses, sizes = [loss for group in groups for loss in group], [len(group) for group in groups]
    columns = [[loss.count for loss in losses], [loss.sum for loss in losses]]
    columns += [[loss.metrics[name] for loss in losses] for name in metrics]
    parts = [torch.stack(column).cpu().double().split(sizes) for column in columns]
    return torch.stack([torch.stack([part.sum() for part in column]) for column in parts], dim=1)
