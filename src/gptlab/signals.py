"""Another answer to a signal, for a while."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
