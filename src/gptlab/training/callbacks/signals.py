"""Ctrl-C, SIGTERM and a cluster's signals end a run at the end of its step."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L

from gptlab.signals import END_OF_PROCESS, answering, leave
from gptlab.training.module import TrainingModule

ONE_PRESS = 0.3
"""Seconds. The terminal sends Ctrl-C to all its processes, and some that start others send it on to them once more."""


class StopOnSignal(L.Callback):
    """While steps are done, the first signal asks the module to stop; a second Ctrl-C leaves at once.

    Before the first step there is nothing to wait for. An end of the process that somebody has answered before is still
    theirs: submitit's jobs wait for another signal than SIGTERM, and nohup ignores SIGHUP.

    Attributes:
        received: the signal that ends the run; None where none came.
        before: who answered them outside of the run.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.received: int | None = None
        self.before: dict[int, Any] = {}
        self._received_at = 0.0
        self._module: TrainingModule | None = None  # which can be asked to stop, once it has begun

    @property
    def has_begun(self) -> bool:
        """Whether the run got as far as its first step, or the validation before it."""
        return self._module is not None

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Within the block, the signals come here."""
        self.before = {number: signal.getsignal(number) for number in self.numbers}
        with answering(*self.numbers, by=self):
            yield

    def __call__(self, number: int, frame: FrameType | None) -> None:
        answer = self.before[number]
        if number in END_OF_PROCESS and answer not in (signal.SIG_DFL, leave):
            if callable(answer):
                answer(number, frame)
            return
        is_again = self.received is not None and time.monotonic() - self._received_at > ONE_PRESS
        leaves_at_once = self._module is None or (is_again and number == signal.SIGINT)
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
        if leaves_at_once:
            raise KeyboardInterrupt
        assert self._module is not None
        self._module.stop_requested = True

    def on_sanity_check_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_train_start(trainer, module)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        self._module = module
