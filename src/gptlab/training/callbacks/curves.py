"""curves.png: the picture that a person looks at first."""

import logging
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from gptlab.training.curves import draw_curves
from gptlab.training.metrics import METRICS
from gptlab.training.stops import Interrupted

log = logging.getLogger("gptlab")


class Curves(L.Callback):
    """Redraws curves.png at a validation, at most once in so many seconds, and at the end.

    Args:
        directory: the run directory, with metrics.csv in it.
        every_seconds: a picture costs some tenths of a second; a short run draws only its last.
    """

    def __init__(self, *, directory: str, every_seconds: float) -> None:
        self.directory = Path(directory)
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if time.monotonic() - self._last >= self.every_seconds:
            self._draw(trainer)

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._draw(trainer)

    @rank_zero_only
    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted):
            self._draw(trainer)

    def _draw(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()  # the row of this very step
        try:
            draw_curves(self.directory / METRICS, self.directory / "curves.png")
        except Exception as error:  # a full disk, or numbers of a callback that nobody thought of: no run ends by it
            log.warning("curves.png could not be drawn (%s)", str(error).splitlines()[0])
        self._last = time.monotonic()
