"""A disk that fails: the n-th time that something is written below a directory, it goes wrong."""

import builtins
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KINDS = ("ENOSPC", "EIO", "full")
"""No space, once; an error, once; no space from now on."""


class FaultyDisk:
    """Counts what is written below a directory, and lets it fail where it is told to.

    One operation is a file that is opened for writing, a write that reaches the system (buffers lie above it), a sync,
    a truncation, or a new name. Python's own files only: what C or C++ opens by itself passes unseen.
    """

    def __init__(self, directory: Path, *, kind: str = "", at: int = -1) -> None:
        self.directory = directory.absolute()
        self.kind = kind
        self.at = at
        self.operations: list[str] = []
        self.before_each: Callable[[int], None] = lambda n: None
        self._lock = threading.Lock()

    def __contains__(self, path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and Path(os.fsdecode(path)).absolute().is_relative_to(
            self.directory
        )

    def happens(self, what: str, path: Any) -> None:
        """Count an operation. Raises OSError if it is to fail."""
        path = Path(os.fsdecode(path))
        with self._lock:  # TensorBoard writes from a thread of its own
            n = len(self.operations)
            self.before_each(n)
            self.operations.append(f"{what} {path.name}")
        takes_space = what in ("open", "write")
        if self.kind == "full" and 0 <= self.at <= n and takes_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if n == self.at and self.kind in ("ENOSPC", "EIO"):
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number), str(path))

    @property
    def failed(self) -> str:
        """The operation that went wrong."""
        return self.operations[self.at] if 0 <= self.at < len(self.operations) else "nothing"


class _RawFile(io.FileIO):
    """What lies below Python's buffers."""

    disk: FaultyDisk

    def write(self, data: Any) -> int | None:
        self.disk.happens("write", self.name)
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self.disk.happens("truncate", self.name)
        return super().truncate(size)


@contextmanager
def faulty(disk: FaultyDisk) -> Iterator[FaultyDisk]:
    """Put the disk under `open`, `os.fsync`, `os.replace`, `os.rename` and `os.link`, for a while."""
    real_open, real_fsync = io.open, os.fsync

    def opened(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **named: Any) -> Any:
        if not set(mode) & set("wxa+") or file not in disk:
            return real_open(file, mode, buffering, *text, **named)
        disk.happens("open", file)
        raw = _RawFile(os.fspath(file), mode.replace("b", "").replace("t", ""), opener=named.pop("opener", None))
        raw.disk = disk
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return buffered
        names = ("encoding", "errors", "newline")
        return io.TextIOWrapper(
            buffered, **dict(zip(names, text, strict=False)), **named, line_buffering=buffering == 1
        )

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path in disk:
            disk.happens("fsync", path)
        real_fsync(descriptor)

    def named_anew(real: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any, **named: Any) -> None:
            if target in disk:
                disk.happens(real.__name__, target)
            real(source, target, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "fsync", synced)
        for name in ("replace", "rename", "link"):
            patch.setattr(os, name, named_anew(getattr(os, name)))
        yield disk
