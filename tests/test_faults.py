"""A full disk may end a run, but the last whole checkpoint loads, and resuming from it is exact."""

import builtins
import errno
import io
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import gptlab as gptlab_package
from conftest import POEM, TINY, Result
from same_run import differences, summary, weights

Command = Callable[..., Result]

RUN = (
    *TINY,
    *("model.dropout=0.2", "max_steps=5", "validate_every=3", "save_every=2", "run_dir=run", "callbacks.curves=null"),
)


class FullDisk:
    """Counts what is written below a directory, and has no space from operation `at` on.

    An operation is a file that is opened for writing, or a write that reaches the system (buffers lie above it). Files
    that C or C++ opens by itself are not seen.
    """

    def __init__(self, directory: Path, *, at: int | None = None) -> None:
        self.directory = directory.absolute()
        self.at = at
        self.operations: list[str] = []
        self._lock = threading.Lock()

    def __contains__(self, path: Any) -> bool:
        is_path = isinstance(path, str | bytes | os.PathLike)
        return is_path and Path(os.fsdecode(path)).absolute().is_relative_to(self.directory)

    def count(self, what: str, path: Any) -> None:
        with self._lock:  # TensorBoard writes from a thread of its own
            self.operations.append(f"{what} {Path(os.fsdecode(path)).name}")
            is_full = self.at is not None and len(self.operations) > self.at
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class _RawFile(io.FileIO):
    """What lies below Python's buffers."""

    disk: FullDisk

    def write(self, data: Any) -> int | None:
        self.disk.count("write", self.name)
        return super().write(data)


@contextmanager
def mounted(disk: FullDisk) -> Iterator[FullDisk]:
    """Within the block, `open` writes through the disk."""
    real_open = io.open

    def opened(file: Any, mode: str = "r", buffering: int = -1, *text: Any, **named: Any) -> Any:
        if not set(mode) & set("wxa+") or file not in disk:
            return real_open(file, mode, buffering, *text, **named)
        disk.count("open", file)
        raw = _RawFile(os.fspath(file), mode.replace("b", "").replace("t", ""), opener=named.pop("opener", None))
        raw.disk = disk
        if buffering == 0:
            return raw
        buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return buffered
        names = ("encoding", "errors", "newline")
        return io.TextIOWrapper(buffered, **dict(zip(names, text, strict=False)), **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        yield disk


class Undisturbed(NamedTuple):
    """A run on a disk with space, and what it wrote."""

    run: Path
    operations: list[str]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    from gptlab.cli import main

    place = tmp_path_factory.mktemp("undisturbed")
    (place / "poem.txt").write_text(POEM * 40)
    with pytest.MonkeyPatch.context() as patch, mounted(FullDisk(place / "run")) as disk:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(sys, "argv", ["gptlab", "train"])
        assert main(["train", *RUN]) == 0
    return Undisturbed(disk.directory, disk.operations)


def check_full_disks(
    gptlab: Command, undisturbed: Undisturbed, moments: Iterable[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run for each moment from which the disk is full; a failure says which others there are."""
    failures = []
    for n in moments:
        try:
            check_full_disk(gptlab, undisturbed, n, monkeypatch)
        except (Exception, SystemExit) as error:
            failures.append(f"full at {n}, {undisturbed.operations[n]}: {type(error).__name__}: {error}")
        shutil.rmtree("run", ignore_errors=True)
    assert not failures, "\n".join(failures)


def check_full_disk(gptlab: Command, undisturbed: Undisturbed, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with one sentence, its last checkpoint loads, and with space it becomes the undisturbed one."""
    run = Path("run")
    with mounted(FullDisk(run, at=n)), monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)  # TensorBoard's writer is a thread
        result = gptlab("train", *RUN)
    if result.status == 0:
        assert summary(run)["status"] == "finished", "only lines of train.log are missing"
    else:
        assert re.search("No space left on device|the disk is full", result.err.splitlines()[-1]), result.err
        assert "Traceback" not in result.out + result.err
    if any(run.glob("checkpoints/*.ckpt")):
        gptlab_package.load(run)
    again = gptlab("train", *([f"resume={run}"] if (run / "config.yaml").exists() else RUN))
    assert again.status == 0 or (again.status == 2 and "has finished" in again.err), again.err
    assert differences(weights(run), weights(undisturbed.run)) == []


@pytest.mark.parametrize("at", ["write config.yaml.tmp", "write last.ckpt.tmp"])
def test_a_full_disk_ends_a_run_with_one_sentence(
    gptlab: Command, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    last = len(undisturbed.operations) - 1 - undisturbed.operations[::-1].index(at)
    check_full_disk(gptlab, undisturbed, last, monkeypatch)


@pytest.mark.slow
def test_a_disk_that_becomes_full_at_each_file(
    gptlab: Command, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = {operation.partition(".tfevents")[0]: n for n, operation in enumerate(undisturbed.operations)}
    moments = [n for operation, n in last.items() if operation.startswith("write")]
    check_full_disks(gptlab, undisturbed, moments, monkeypatch)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_a_disk_that_becomes_full_at_any_time(
    gptlab: Command, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_full_disks(gptlab, undisturbed, range(len(undisturbed.operations)), monkeypatch)
