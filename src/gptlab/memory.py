"""Memory of this process: what is freed and used again, and what is left to Python's garbage collector."""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OFF = "GPTLAB_MALLOC"
"""The environment variable that leaves the allocator as it is, if its value is 0."""

MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -3, -1, -2  # <malloc.h>


@contextmanager
def no_collection() -> Iterator[None]:
    """Import without Python's garbage collector: for torch and Lightning it takes a second, and frees almost nothing.

    What has been imported stays, so later collections leave it out.
    """
    if not gc.isenabled():
        yield
        return
    n_modules = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > n_modules:
            gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Keep freed memory in the process, on Linux with glibc; elsewhere nothing happens.

    glibc gives each freed tensor of 32 MB or more back to the system, and the next one's pages are made and zeroed
    again: half of a training step of GPT-2 small on two cores. Memory once taken is held to the end. Call it before
    the first large tensor.

    torch's huge pages (THP_MEM_ALLOC_ENABLE=1) add nothing: with them steps fault again, and memory grows by a fifth.
    """
    if sys.platform != "linux" or os.environ.get(OFF) == "0":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return
    mallopt(MMAP_THRESHOLD, 1 << 30) or mallopt(MMAP_THRESHOLD, 1 << 25)  # old glibc refuses more than 32 MB
    mallopt(TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(TOP_PAD, 1 << 28)  # ask the system for 256 MB at a time
