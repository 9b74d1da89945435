"""Ctrl-C, SIGTERM, SIGHUP and a cluster's signals end a run after its current step."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L

from gptlab.signals import END_OF_PROCESS, leave, signal_handler
from gptlab.training.module import TrainingModule

ONE_PRESS = 0.3  # seconds: a process may get Ctrl-C from the terminal, and again from the process that started it
SCHEDULER_SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""SLURM's `--signal=USR1@120`, and submitit's SIGUSR2: the time of the job is up."""


class StopOnSignal(L.Callback):
    """The first signal asks the module to stop after its step; a second Ctrl-C exits at once.

    Before the first step there is nothing to finish, and the first signal exits. A SIGTERM or SIGHUP that already had a
    handler stays with it: submitit's jobs wait for another signal than SIGTERM, and nohup ignores SIGHUP.

    Attributes:
        received: the signal that ends the run; None if none came.
        module: the module that trains; None before the first step.
        requeue: a scheduler's own handler of the received signal; None if there is none.
    """

    def __init__(self) -> None:
        in_job = "SLURM_JOB_ID" in os.environ or "SUBMITIT_LOCAL_JOB_ID" in os.environ
        self.numbers = (signal.SIGINT, *END_OF_PROCESS, *(SCHEDULER_SIGNALS if in_job else ()))
        self.received: int | None = None
        self.requeue: Callable[[], Any] | None = None
        self._earlier: dict[int, Any] = {}
        self._received_at = 0.0
        self.module: TrainingModule | None = None

    @contextmanager
    def handles(self) -> Iterator[None]:
        """Within the block, the signals come here."""
        self._earlier = {number: signal.getsignal(number) for number in self.numbers}
        with signal_handler(*self.numbers, handler=self):
            yield

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.module = module
        if threading.current_thread() is threading.main_thread():  # Lightning has put its own handler before this one
            signal.signal(signal.SIGTERM, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        earlier = self._earlier[number]
        if number in END_OF_PROCESS and earlier not in (signal.SIG_DFL, leave):
            if callable(earlier):
                earlier(number, frame)
            return
        is_second = self.received is not None and time.monotonic() - self._received_at > ONE_PRESS
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            if number in SCHEDULER_SIGNALS and callable(earlier):
                self.requeue = lambda: earlier(number, None)
        if self.module is None or (is_second and number == signal.SIGINT):
            raise KeyboardInterrupt
        self.module.stop_requested = True
