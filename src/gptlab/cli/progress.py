"""Progress of a long command on standard error, because its result goes to standard output."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from gptlab.data.base import Piece

SECONDS = 10


@contextmanager
def progress_line(what: str, total: int | None, *, unit: str) -> Iterator[Callable[..., None]]:
    """A line every SECONDS, which a terminal shows in one place; yields `show(completed, note)`."""
    in_terminal = sys.stderr.isatty()
    began = last_line = time.monotonic()

    def show(completed: int, note: str = "") -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line < (0.1 if in_terminal else SECONDS) or completed in (0, total):
            return
        last_line = now
        speed = completed / max(now - began, 1e-9)
        of, eta = (
            ("", "") if total is None else (f"/{total:,}", f"ETA {timedelta(seconds=(total - completed) // speed)}")
        )
        line = "  ".join(filter(None, (what, f"{completed:,}{of} {unit}", f"{speed:,.0f} {unit}/s", note, eta)))
        print(line, end="\x1b[K\r" if in_terminal else "\n", file=sys.stderr, flush=True)

    yield show
    print("\x1b[K" if in_terminal else "", end="", file=sys.stderr, flush=True)


def show_pieces(what: str, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Pass pieces on and show the number of characters so far."""
    n_characters = 0
    with progress_line(what, None, unit="characters") as show:
        for piece in pieces:
            yield piece
            n_characters += len(piece.text)
            show(n_characters)
