"""What a person sees of a download, and how a person ends it."""

import io
import signal
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from gptlab.signals import answering


def progress_bar() -> Any:
    """A progress bar for the client to fill: one line that moves in a terminal, one every ten seconds elsewhere.

    The client makes several bars, which count the same bytes in several ways; they share one clock, so one line shows.
    """
    from tqdm import tqdm

    moves = sys.stderr.isatty()
    seconds = 0.2 if moves else 10

    class Bytes(tqdm):
        last_line = time.monotonic()
        is_over = is_stopped = False

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})  # its own writing goes nowhere

        def update(self, n: float | None = 1) -> bool | None:
            if Bytes.is_stopped:
                raise KeyboardInterrupt
            return super().update(n)

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            now = time.monotonic()
            due = self.unit == "B" and self.total and self.n and now - Bytes.last_line >= seconds
            if due and not Bytes.is_over:
                Bytes.last_line = now
                line = f"  {self.n / 1e6:,.0f} of {self.total / 1e6:,.0f} MB"
                print(f"\r{line}" if moves else line, end="" if moves else "\n", file=sys.stderr, flush=True)

        @staticmethod
        def finish() -> None:
            """Bars may outlive the download; the line shall not."""
            Bytes.is_over = True
            if moves:
                print("\r" + " " * 30, end="\r", file=sys.stderr, flush=True)

    return Bytes


def leaving_at_once(progress: Any) -> AbstractContextManager[None]:
    """Ctrl-C ends the download's threads too: the client would wait until they have the whole file."""

    def stop(number: int, frame: object) -> None:
        progress.is_stopped = True
        raise KeyboardInterrupt

    return answering(signal.SIGINT, by=stop)
