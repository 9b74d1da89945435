"""Report each validation of a trial to its sweep, and end the trial if others did better."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L

from gptlab.training.stops import Pruned

log = logging.getLogger("gptlab")


class Pruning(L.Callback):
    """Reports a metric after each validation between the first and the last step; raises Pruned if the trial is pruned.

    It comes after the callbacks that save.

    Args:
        metric: a metric that the module logs, `val/loss`.
        report: gets the value and the step, returns whether to prune the run. Only the first rank calls it.
    """

    def __init__(self, *, metric: str, report: Callable[[float, int], bool]) -> None:
        self.metric = metric
        self._report = report

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        step = trainer.global_step
        if 0 < step < trainer.max_steps:
            is_pruned = trainer.is_global_zero and self._report(module.metrics[self.metric], step)
            if trainer.strategy.broadcast(is_pruned):
                log.info("pruned at step %d: other trials of the sweep did better", step)
                raise Pruned
