"""Model FLOPs utilization: how much of a device's speed in matrix products training uses."""

from collections.abc import Callable
from functools import cache
from typing import Any

import lightning as L


class Utilization(L.Callback):
    """Logs `mfu` at each validation: operations a second since the last one, over those at the device's peak.

    Chowdhery et al. 2022 (arXiv:2204.02311), appendix B. It adds the operations of the whole run to summary.json.

    Args:
        cost: returns the operations of an input token and those of a device in a second; None if they are not known.
            It takes some tenths of a second, so it is called at the first validation.
    """

    def __init__(self, cost: Callable[[], tuple[float, float] | None]) -> None:
        self._cost = cache(cost)
        self._tokens, self._began = 0, 0.0  # input tokens, and training seconds so far, since the last validation

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._began = module.clock.training_seconds  # of earlier sessions

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._tokens += batch[0].numel()

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        seconds, tokens = module.clock.training_seconds - self._began, self._tokens
        self._tokens, self._began = 0, module.clock.training_seconds
        if module.n_inputs > 0 and (cost := self._cost()) is not None:
            flops, peak = cost
            module.summary["flops"] = flops * module.n_inputs
            if tokens > 0:
                module.summary["mfu"] = tokens / seconds * flops / peak
                module.log("mfu", module.summary["mfu"], batch_size=1)
