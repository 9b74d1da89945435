"""Progress: training loss, tokens per second, and the remaining time."""

import logging
import sys
import time
from contextlib import suppress
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptlab.training.module import TrainingModule

log = logging.getLogger("gptlab")

LONG_RUN = 1.0  # hours: a run that needs longer says so
ESTIMATE_STEPS = 4  # of this session, before the estimate
SHOWN = {
    "val/loss": "val loss {:.3f}",
    "val/perplexity": "val perplexity {:.1f}",
    "val/bits_per_byte": "bits/byte {:.3f}",
    "val/accuracy": "val accuracy {:.1%}",
    "val/ideal_loss": "ideal loss {:.3f}",
}


class ProgressLine(L.Callback):
    """A progress bar in a terminal, elsewhere a line now and then. Each validation writes a line.

    The training loss is the mean over the last steps, as in summary.json.

    Args:
        every_seconds: time between two lines.
    """

    def __init__(self, *, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._first_step = 0  # of this session
        self._estimates = True  # once

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._last_line, self._first_step = time.monotonic(), trainer.global_step
        console = Console(file=sys.stderr)
        if console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}  ETA"))
            how: dict[str, Any] = {"console": console, "transient": True, "redirect_stdout": sys.stdout.isatty()}
            self._bar = Progress(*columns, TimeRemainingColumn(compact=True), **how)
            self._bar.add_task("first step", total=None, completed=trainer.global_step)
            self._bar.start()

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        tokens_per_second = module.clock.recent_tokens_per_second
        if tokens_per_second == 0:  # before the first log
            return
        now = f"{_train_loss(module)}  {tokens_per_second:,.0f} {module.unit}s/s"
        seconds_left = _seconds_left(trainer, module)
        if self._estimates and trainer.global_step >= self._first_step + ESTIMATE_STEPS:
            self._estimates = False
            if seconds_left > 3600 * LONG_RUN:
                hours, device = seconds_left / 3600, module.device.type
                log.info("this run will take about %.3g hours on this machine (%s); Ctrl-C stops it", hours, device)
        if self._bar is not None:
            self._bar.update(
                self._bar.task_ids[0], total=module.expected_steps, completed=trainer.global_step, description=now
            )
        elif time.monotonic() - self._last_line >= self.every_seconds:
            self._last_line = time.monotonic()
            eta = "ETA {}:{:02d}".format(*divmod(round(seconds_left), 60))
            log.info("step %d/%d  %s  %s", trainer.global_step, module.expected_steps, now, eta)

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        numbers = [form.format(module.metrics[name]) for name, form in SHOWN.items() if name in module.metrics]
        line = "  ".join(filter(None, (_train_loss(module), *numbers)))
        log.info("step %d/%d  %s", trainer.global_step, module.expected_steps, line)

    def on_train_end(self, *_: Any) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal was closed
                self._bar.stop()
            self._bar = None

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()


def _train_loss(module: TrainingModule) -> str:
    loss = module.steps.recent_loss
    return "" if loss is None else f"train loss {loss:.3f}"  # None before the first step


def _seconds_left(trainer: L.Trainer, module: TrainingModule) -> float:
    tokens_per_step = module.n_tokens / trainer.global_step
    return (module.expected_steps - trainer.global_step) * tokens_per_step / module.clock.recent_tokens_per_second
