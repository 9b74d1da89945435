"""A trial of a sweep reports each validation, and ends where others did better."""

import logging
from collections.abc import Callable

import lightning as L

from gptlab.training.module import TrainingModule
from gptlab.training.stops import Pruned

log = logging.getLogger("gptlab")


class Pruning(L.Callback):
    """Reports a number of each validation, with the step; raises Pruned where that is the answer.

    It comes behind the callbacks that save. Neither before the first step nor behind the last one is anything pruned.

    Args:
        metric: its name among those that the module logs, `val/loss`.
        report: takes the number and the step, and says whether the run is to be pruned. The first rank alone asks.
    """

    def __init__(self, *, metric: str, report: Callable[[float, int], bool]) -> None:
        self.metric = metric
        self._report = report

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        if step == 0 or step >= trainer.max_steps:
            return
        is_pruned = trainer.is_global_zero and self._report(module.metrics[self.metric], step)
        if trainer.strategy.broadcast(is_pruned):
            log.info("pruned at step %d: other trials of the sweep did better", step)
            raise Pruned
