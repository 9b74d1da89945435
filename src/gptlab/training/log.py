"""Log lines: to the terminal at once, to the run's train.log as soon as there is one."""

import logging
import logging.handlers
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gptlab.data.source import Piece
from gptlab.training.appended import AppendedFile

LOGGER = logging.getLogger("gptlab")
TRAIN_LOG = "train.log"
BUFFERED_LINES = 10_000


class _Terminal(logging.Handler):
    """Looks the stream up at each line: a progress bar may stand there and wants to move out of the way."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        with suppress(OSError):  # a terminal that was closed ends no run: train.log has the line
            print(self.format(record), file=stream, flush=True)


class _TrainLog(logging.Handler):
    """train.log. A disk that is full costs no run its life."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        self._file = AppendedFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.append(f"{self.format(record)}\n".encode(errors="replace"))

    def close(self) -> None:
        self._file.close()
        super().close()


class RunLog:
    """Collects the lines of a run; of several ranks only the first speaks.

    Lines from before the run directory exists are kept and written first.
    """

    def __init__(self, *, speaks: bool) -> None:
        self._file: _TrainLog | None = None
        self._buffer = logging.handlers.MemoryHandler(BUFFERED_LINES, flushLevel=logging.CRITICAL + 1)
        self._handlers: list[logging.Handler] = []
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False
        if speaks:
            self._handlers = [_Terminal(), self._buffer]
        for handler in self._handlers:
            LOGGER.addHandler(handler)

    def open(self, run_dir: Path) -> None:
        """Go on in train.log, with what was said so far at its beginning."""
        if not self._handlers:
            return
        self._file = _TrainLog(run_dir / TRAIN_LOG)
        self._buffer.setTarget(self._file)
        self._buffer.flush()
        LOGGER.removeHandler(self._buffer)
        LOGGER.addHandler(self._file)
        self._handlers.append(self._file)

    def file_only(self, text: str) -> None:
        """A traceback: for whoever looks into train.log."""
        if self._file is not None:
            self._file.handle(logging.LogRecord("gptlab", logging.ERROR, "", 0, text, None, None))

    def close(self) -> None:
        for handler in self._handlers:
            LOGGER.removeHandler(handler)
            handler.close()


def show_pieces(what: str, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pass pieces on; show how many characters went by, in a terminal as they do, elsewhere now and then."""
    console = Console(file=sys.stderr)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}  {task.completed:,.0f} characters"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what)
        characters, last_line = 0, time.monotonic()
        for piece in pieces:
            yield piece
            characters += len(piece.text)
            bar.update(task, completed=characters)
            if not console.is_terminal and time.monotonic() - last_line > 10:
                LOGGER.info("%s: %s characters", what, f"{characters:,}")
                last_line = time.monotonic()


def quiet_lightning() -> None:
    """Keep Lightning's hints on other settings to itself; gptlab has decided them."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Total length of .* across ranks is zero.*",
        ".*`training_step` returned `None`.*",
        ".*isinstance.treespec, LeafSpec.. is deprecated.*",
        ".*`_pytree.*",
    ):
        warnings.filterwarnings("ignore", message=message)
