"""Log lines: to the terminal at once, and to train.log as soon as the run directory exists."""

import logging
import logging.handlers
import sys
import warnings
from contextlib import suppress
from pathlib import Path

from gptlab.training.run_files import TRAIN_LOG

LOGGER = logging.getLogger("gptlab")


class _Terminal(logging.Handler):
    """Looks the stream up for each line: a progress bar may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with suppress(OSError):  # a closed terminal does not end the run
            print(self.format(record), file=stream, flush=True)


class RunLog:
    """Handles the log lines of a run; of several ranks only the first writes. Early lines are kept for train.log."""

    def __init__(self, *, writes: bool) -> None:
        self._lines = logging.handlers.MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1)
        self._handlers: list[logging.Handler] = [_Terminal(), self._lines] if writes else []
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        for handler in self._handlers:
            LOGGER.addHandler(handler)

    def open(self, run_dir: Path) -> None:
        """Continue train.log, with the lines so far. Raises OSError."""
        if self._handlers and self._lines.target is None:
            file = logging.FileHandler(run_dir / TRAIN_LOG, encoding="utf-8", errors="replace")
            file.handleError = lambda record: None  # type: ignore[method-assign] # on a full disk: a lost line
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
            self._lines.setTarget(file)
            self._lines.capacity = 1  # from now on each line is written at once
            self._lines.flush()

    def file_only(self, text: str) -> None:
        """Write a traceback to train.log alone."""
        self._lines.handle(logging.LogRecord("gptlab", logging.ERROR, "", 0, text, None, None))

    def close(self) -> None:
        file = self._lines.target
        for handler in self._handlers:
            LOGGER.removeHandler(handler)
        with suppress(OSError):  # the disk is full
            self._lines.close()
            if file is not None:
                file.close()


def quiet_lightning() -> None:
    """Silence Lightning's hints on settings that gptlab has decided."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        *("does not have many workers", "is smaller than the logging interval", "`training_step` returned `None`"),
        *("Checkpoint directory .* exists and is not empty", "Total length of .* across ranks is zero"),
        "It is recommended to use `self.log.*sync_dist=True",  # the values are sums over all ranks already
        "You have overridden `on_before_batch_transfer`",  # gptlab's DataModule has none
        *("isinstance.treespec, LeafSpec.. is deprecated", "`_pytree"),
    ):
        warnings.filterwarnings("ignore", message=f".*{message}")
