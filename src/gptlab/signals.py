"""Another answer to a signal, for a while."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

END_OF_PROCESS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows lacks one


def unanswered(*numbers: int) -> list[int]:
    """Those that would end the process: whoever has an answer to a signal has a reason, as nohup and submitit."""
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]


@contextmanager
def answering(*numbers: int, by: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block these signals call `by`; in a thread that is not the main one nothing changes."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other may install handlers
    before = {number: signal.signal(number, by) for number in numbers} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    """A process that is told to go (SIGTERM), or whose terminal is closed (SIGHUP), leaves no half of a directory."""
    print("terminated", file=sys.stderr)
    raise SystemExit(128 + number)
