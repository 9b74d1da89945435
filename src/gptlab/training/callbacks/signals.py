"""Ctrl-C and SIGTERM end a run at the end of its step."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L

from gptlab.training.module import TrainingModule


class StopOnSignal(L.Callback):
    """The first signal asks the module to stop; a second Ctrl-C leaves at once.

    Installed when training starts, so that it stands in front of Lightning's own handler, which would end the process
    with status 0 and without a last validation.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)

        def stop(number: int, frame: FrameType | None) -> None:
            if self.received is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.received = number
            module.stop_requested = True

        if threading.current_thread() is threading.main_thread():  # no other may install handlers
            self._before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
