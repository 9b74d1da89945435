"""Files that only grow, record by record: metrics.csv, train.log, TensorBoard's events."""

import logging
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path

log = logging.getLogger("gptlab")


class AppendedFile:
    """Appends whole records. Where the disk is full they wait in memory: a run must not end by a line of its log.

    What a failed write has left of a record is cut off again, so that no reader stumbles over half of one. The first
    failure is reported, and the first success after it.

    Args:
        path: made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: FileIO | None = None
        self._waiting = b""

    def append(self, record: bytes) -> None:
        """Write it, behind what waits; no OSError gets out."""
        waited = bool(self._waiting)
        self._waiting += record
        try:
            self._write()
        except OSError as error:
            if not waited:
                log.warning(
                    "%s cannot be written (%s): its lines are kept for later", self.path, error.strerror or error
                )
            return
        self._waiting = b""
        if waited:
            log.info("%s can be written again: nothing of it was lost", self.path)

    def _write(self) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        whole, written = os.fstat(self._file.fileno()).st_size, 0
        try:
            while written < len(self._waiting):
                written += self._file.write(self._waiting[written:])
        except OSError:
            with suppress(OSError):
                self._file.truncate(whole)
            raise

    def sync(self) -> None:
        """On the disk, power failure or not; no OSError gets out."""
        if self._waiting:
            self.append(b"")
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        if self._file is not None:
            self._file.close()
            self._file = None
