"""Files that grow lose nothing where they cannot be written for a while, and never hold half of a record."""

import errno
from io import FileIO
from pathlib import Path

import pytest

from gptlab.training.appended import AppendedFile, log


def test_records_wait_until_there_is_a_place_for_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level("INFO", log.name)
    file = AppendedFile(tmp_path / "nowhere" / "metrics.csv")
    for number in range(3):
        file.append(f"{number}\n".encode())
    assert len(caplog.records) == 1, "said once"
    assert "cannot be written (No such file or directory)" in caplog.text
    (tmp_path / "nowhere").mkdir()
    file.append(b"3\n")
    file.close()
    assert file.path.read_bytes() == b"0\n1\n2\n3\n"
    assert "can be written again" in caplog.text


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
