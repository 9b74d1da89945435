"""Files that grow lose nothing where they cannot be written for a while, and never hold half of a record."""

import errno
import logging
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from gptlab.training.appended import AppendedFile, log


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged, once each: a handler of one's own, whoever else listens."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level, _ = log.level, log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield said
    log.removeHandler(handler)
    log.setLevel(level)


def test_records_wait_until_there_is_a_place_for_them(tmp_path: Path, lines: list[str]) -> None:
    file = AppendedFile(tmp_path / "nowhere" / "metrics.csv")
    for number in range(3):
        file.append(f"{number}\n".encode())
    assert len(lines) == 1, "said once"
    assert "cannot be written (No such file or directory)" in lines[0]
    (tmp_path / "nowhere").mkdir()
    file.append(b"3\n")
    file.close()
    assert file.path.read_bytes() == b"0\n1\n2\n3\n"
    assert "can be written again" in lines[1]


class FullAfterTwoBytes(FileIO):
    """Takes two bytes of a write, and none after them."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.tell() % 4 == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:2])


def test_half_of_a_record_is_taken_back(tmp_path: Path) -> None:
    file = AppendedFile(tmp_path / "metrics.csv")
    file._file = FullAfterTwoBytes(file.path, "w")
    file.append(b"one\n")
    assert file.path.read_bytes() == b""
    file._file = None  # there is room again
    file.append(b"two\n")
    file.close()
    assert file.path.read_bytes() == b"one\ntwo\n"
