"""Ctrl-C and SIGTERM end a run at the end of its step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import lightning as L

from gptlab.signals import answering
from gptlab.training.module import TrainingModule


class StopOnSignal(L.Callback):
    """While steps are done, the first signal asks the module to stop; a second Ctrl-C leaves at once.

    Before the first step there is nothing to wait for, and behind the last only the summary, which nobody wants cut.

    Attributes:
        received: the signal that ends the run; None where none came.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.received: int | None = None
        self._module: TrainingModule | None = None  # while it can be asked to stop

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Within the block, the signals come here."""
        with answering(*self.numbers, by=self):
            yield

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._module is None or (self.received is not None and number == signal.SIGINT):
            self.received = self.received or number
            raise KeyboardInterrupt
        self.received = self.received or number
        self._module.stop_requested = True

    def on_sanity_check_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_train_start(trainer, module)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Lightning has put handlers of its own in front, which would end the process with status 0."""
        assert isinstance(module, TrainingModule)
        self._module = module
        if threading.current_thread() is threading.main_thread():  # no other may install handlers
            for number in self.numbers:
                signal.signal(number, self)
