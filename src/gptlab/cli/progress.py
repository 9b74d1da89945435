"""Progress of a long command on standard error, because its result goes to standard output."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gptlab.data.base import Piece

SECONDS = 10


@contextmanager
def progress_line(what: str, total: int | None, *, unit: str) -> Iterator[Callable[..., None]]:
    """A bar in a terminal, otherwise a line every SECONDS; yields `show(completed, note)`."""
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[line]}")
    began = last_line = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, line="")

        def show(completed: int, note: str = "") -> None:
            nonlocal last_line
            speed = max(completed, 1e-9) / max(time.monotonic() - began, 1e-9)
            eta = "" if total is None else "ETA {}:{:02d}".format(*divmod(round((total - completed) / speed), 60))
            of = "" if total is None else f"/{total:,}"
            line = "  ".join(filter(None, (f"{completed:,}{of} {unit}", f"{speed:,.0f} {unit}/s", note, eta)))
            bar.update(task, completed=completed, line=line)
            if not console.is_terminal and time.monotonic() - last_line >= SECONDS and completed != total:
                last_line = time.monotonic()
                print(f"{what}  {line}", file=sys.stderr, flush=True)

        yield show


def show_pieces(what: str, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pass pieces on and show the number of characters so far."""
    n_characters = 0
    with progress_line(what, None, unit="characters") as show:
        for piece in pieces:
            yield piece
            n_characters += len(piece.text)
            show(n_characters)
