"""Model FLOPs utilization: how much of a device's speed in matrix products training uses."""

from collections.abc import Callable
from functools import cache
from typing import Any

import lightning as L


class Utilization(L.Callback):
    """Logs `mfu` at each validation: tokens a second since the last one, over those at the device's peak.

    Chowdhery et al. 2022 (arXiv:2204.02311), appendix B.

    Args:
        fastest: returns the tokens a second at the peak, None if they are not known. It takes some tenths of a second,
            so it is called at the first validation.
    """

    def __init__(self, fastest: Callable[[], float | None]) -> None:
        self._fastest = cache(fastest)
        self._tokens, self._began = 0, 0.0  # input tokens, and training seconds so far, since the last validation

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self._began = module.clock.training_seconds  # of earlier sessions

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._tokens += batch[0].numel()

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        seconds, tokens = module.clock.training_seconds - self._began, self._tokens
        self._tokens, self._began = 0, module.clock.training_seconds
        if tokens > 0 and (fastest := self._fastest()) is not None:
            module.summary["mfu"] = tokens / seconds / fastest
            module.log("mfu", module.summary["mfu"], batch_size=1)
