"""The line that a person watches: loss, tokens per second, and how long it will take."""

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


class ProgressLine(L.Callback):
    """A bar in a terminal; elsewhere a plain line now and then. Each validation gets a line that stays.

    Args:
        every_seconds: time between two plain lines.
    """

    def __init__(self, *, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self._bar: Progress | None = None
        self._last_line = 0.0

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._last_line = time.monotonic()
        console = _console()
        if console is None:
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}  ETA"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else its lines go where it goes
        )
        self._task = self._bar.add_task(
            "training", total=trainer.max_steps, completed=trainer.global_step, now="the first step"
        )
        self._bar.start()

    @rank_zero_only
    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, TrainingModule)
        step, metrics = trainer.global_step, module.metrics
        if self._bar is not None:
            now = f"loss {metrics['train/loss']:.3f}  {metrics['tokens_per_second']:,.0f} tokens/s"
            with suppress(OSError):  # a terminal that was closed
                self._bar.update(self._task, completed=step, now=now)
        elif time.monotonic() - self._last_line >= self.every_seconds:
            self._last_line = time.monotonic()
            eta = (trainer.max_steps - step) * metrics["tokens"] / step / max(metrics["tokens_per_second"], 1e-9)
            log.info(
                "step %d/%d  loss %.3f  %s tokens/s  ETA %d:%02d",
                *(step, trainer.max_steps, metrics["train/loss"], f"{metrics['tokens_per_second']:,.0f}"),
                *divmod(round(eta), 60),
            )

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        metrics = module.metrics
        bits = f"  bits/byte {metrics['val/bits_per_byte']:.3f}" if "val/bits_per_byte" in metrics else ""
        train_loss = module.recent_train_loss
        train = f"train loss {train_loss:.3f}  " if train_loss is not None else ""  # None before the first step
        log.info(
            "step %d/%d  %sval loss %.3f  val perplexity %.1f%s",
            *(trainer.global_step, trainer.max_steps, train),
            *(metrics["val/loss"], metrics["val/perplexity"], bits),
        )

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()
            self._bar = None


def _console() -> Console | None:
    """The terminal, or None where output is not one."""
    console = Console(file=sys.stderr)
    return console if console.is_terminal else None
