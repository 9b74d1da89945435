"""What a person sees of a long command whose result goes to standard output: all on standard error."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

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

    def line(completed: int, note: str) -> str:
        speed = max(completed, 1e-9) / max(time.monotonic() - began, 1e-9)
        eta = "ETA {}:{:02d}".format(*divmod(round((total - completed) / speed), 60))
        return "  ".join(filter(None, (f"{completed:,}/{total:,} {unit}", f"{speed:,.0f} {unit}/s", note, eta)))

    if console.is_terminal:
        columns = TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[line]}")
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total, line="")
            yield lambda completed, note="": bar.update(task, completed=completed, line=line(completed, note))
        return

    def say(completed: int, note: str = "") -> None:
        nonlocal last_line
        if time.monotonic() - last_line >= SECONDS and completed < total:
            last_line = time.monotonic()
            LOGGER.info("%s  %s", what, line(completed, note))

    yield say
