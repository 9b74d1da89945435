"""Temporarily replaced signal handlers."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

END_OF_PROCESS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows lacks one


def unhandled(*numbers: int) -> list[int]:
    """The signals that would end the process. Handlers of nohup and submitit stay in place."""
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]


@contextmanager
def signal_handler(*numbers: int, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within the block these signals call `handler`. Does nothing outside the main thread, which Python requires."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    earlier = {number: signal.signal(number, handler) for number in numbers} if in_main_thread else {}
    try:
        yield
    finally:
        for number, earlier_handler in earlier.items():
            signal.signal(number, earlier_handler)


def leave(number: int, frame: FrameType | None) -> None:
    """Handler of SIGTERM and SIGHUP: exit with cleanup, so that no partial directory stays."""
    print("terminated", file=sys.stderr)
    raise SystemExit(128 + number)
