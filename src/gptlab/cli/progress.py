"""What a person sees of a long command whose result goes to standard output: all on standard error."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOGGER = logging.getLogger("gptlab")
SECONDS = 10  # between two plain lines


@contextmanager
def log_lines_on_stderr() -> Iterator[None]:
    """Also those of others, such as the corpus that is being prepared."""
    handler = logging.StreamHandler(sys.stderr)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


@contextmanager
def progress_line(what: str, total: int, *, unit: str) -> Iterator[Callable[..., None]]:
    """A bar in a terminal, a plain line now and then elsewhere; gives `show(completed, note)`."""
    console = Console(file=sys.stderr)
    began = last_line = time.monotonic()

    def speed(completed: int) -> float:
        return completed / max(time.monotonic() - began, 1e-9)

    if console.is_terminal:
        with _bar(console) as bar:
            task: TaskID = bar.add_task(what, total=total, now="")

            def show(completed: int, note: str = "") -> None:
                now = f"{completed:,}/{total:,} {unit}  {speed(completed):,.0f} {unit}/s  {note}"
                bar.update(task, completed=completed, now=now)

            yield show
        return

    def say(completed: int, note: str = "") -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= SECONDS and completed < total:
            last_line = time.monotonic()
            eta = "{}:{:02d}".format(*divmod(round((total - completed) / max(speed(completed), 1e-9)), 60))
            counted = f"{completed:,}/{total:,} {unit}  {speed(completed):,.0f} {unit}/s"
            LOGGER.info("%s  %s  %s", what, counted, f"{note}  ETA {eta}" if note else f"ETA {eta}")

    yield say


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[now]}  ETA"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )
