"""A failed write may end a run, but the last whole checkpoint loads, and resuming from it is exact."""

import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import gptlab as gptlab_package
from conftest import POEM, TINY, Result
from faulty_disk import KINDS, FaultyDisk, faulty
from same_run import assert_same_run, differences, weights

Command = Callable[..., Result]

RUN = (
    *TINY,
    *("model.dropout=0.2", "max_steps=5", "validate_every=3", "save_every=2", "run_dir=run", "callbacks.curves=null"),
)


class Undisturbed(NamedTuple):
    """A run that nothing disturbed, what it wrote, and copies `run-<n>` of its directory from before each write."""

    command: tuple[str, ...]
    run: Path
    operations: list[str]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    from gptlab.cli import main

    place = tmp_path_factory.mktemp("undisturbed")
    (place / "poem.txt").write_text(POEM * 40)
    disk = FaultyDisk(place / "run")

    def photograph(n: int) -> None:
        if disk.directory.exists():
            shutil.copytree(disk.directory, place / f"run-{n}")

    disk.before_each = photograph
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(sys, "argv", ["gptlab", "train"])
        with faulty(disk):
            assert main(["train", *RUN]) == 0
    return Undisturbed(RUN, place / "run", disk.operations)


def go_on(gptlab: Command, run: Path, undisturbed: Undisturbed) -> None:
    """Resume what can be, begin again what had not begun; a run that is complete says so."""
    command = [f"resume={run}"] if (run / "config.yaml").exists() else undisturbed.command
    result = gptlab("train", *command)
    finished = result.status == 2 and "has finished" in result.err
    assert result.status == 0 or finished, result.err


def check_fault(gptlab: Command, kind: str, n: int, undisturbed: Undisturbed) -> str:
    """One run with one fault, and the run that goes on from what it left; returns what went wrong."""
    run = Path("run")
    unheard: list[object] = []  # of threads and destructors: Python prints a traceback for each
    with faulty(FaultyDisk(run, kind=kind, at=n)) as disk, pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", unheard.append)
        patch.setattr(sys, "unraisablehook", unheard.append)
        result = gptlab("train", *undisturbed.command)
        gc.collect()
    where = f"{kind} at operation {n}, {disk.failed}"
    trained = (run / "metrics.csv").exists()
    saved = any(operation.startswith("replace ") and operation.endswith(".ckpt") for operation in disk.operations)
    assert result.status in ((0, 1) if trained or saved else (0, 1, 2)), f"{where}: {result}"
    assert "Traceback" not in result.out + result.err, f"{where}: {result}"
    assert not unheard, f"{where}: {unheard}"
    if any(run.glob("checkpoints/*.ckpt")):
        gptlab_package.load(run)
    go_on(gptlab, run, undisturbed)
    assert differences(weights(run), weights(undisturbed.run)) == [], where
    shutil.rmtree(run)
    return disk.failed


def check_faults(
    gptlab: Command, undisturbed: Undisturbed, faults: Iterable[tuple[str, int]], capfd: pytest.CaptureFixture
) -> None:
    """Every one of them, so that a failure says which others there are."""
    n_faults, failures = 0, []
    for kind, n in faults:
        n_faults += 1
        try:
            check_fault(gptlab, kind, n, undisturbed)
        except (Exception, SystemExit) as error:
            failures.append(f"{type(error).__name__}: {error}")
            shutil.rmtree("run", ignore_errors=True)
    with capfd.disabled():
        print(f"\n{n_faults} faults injected, {len(failures)} not survived")
    assert not failures, "\n".join(failures)


def one_of_each(operations: list[str]) -> list[int]:
    """The last operation of each sort on each file."""
    return sorted({operation.partition(".tfevents")[0]: n for n, operation in enumerate(operations)}.values())


@pytest.mark.slow
def test_one_fault_of_each_sort_on_each_file(
    gptlab: Command, undisturbed: Undisturbed, capfd: pytest.CaptureFixture
) -> None:
    operations = [n for n in one_of_each(undisturbed.operations) if not undisturbed.operations[n].startswith("open")]
    check_faults(gptlab, undisturbed, [(KINDS[i % len(KINDS)], n) for i, n in enumerate(operations)], capfd)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_every_fault(gptlab: Command, undisturbed: Undisturbed, kind: str, capfd: pytest.CaptureFixture) -> None:
    check_faults(gptlab, undisturbed, ((kind, n) for n in range(len(undisturbed.operations))), capfd)


def check_kills(gptlab: Command, undisturbed: Undisturbed, writes: Iterable[int]) -> None:
    """What kill -9 leaves before a write is gone on with."""
    failures = []
    for n in writes:
        try:
            shutil.copytree(undisturbed.run.with_name(f"run-{n}"), "run")
            go_on(gptlab, Path("run"), undisturbed)
            assert_same_run(Path("run"), undisturbed.run)
        except (Exception, SystemExit) as error:
            failures.append(f"killed before operation {n}, {undisturbed.operations[n]}: {error}")
        shutil.rmtree("run", ignore_errors=True)
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_killed_before_a_file_is_opened_or_named(gptlab: Command, undisturbed: Undisturbed) -> None:
    moments = [n for n in one_of_each(undisturbed.operations) if undisturbed.operations[n].startswith(("open", "repl"))]
    check_kills(gptlab, undisturbed, moments)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_killed_before_every_write(gptlab: Command, undisturbed: Undisturbed) -> None:
    check_kills(gptlab, undisturbed, range(len(undisturbed.operations)))


@pytest.fixture
def small_disk(workplace: Path) -> Iterator[Callable[[int], None]]:
    """Sets the size in kilobytes of a file system that is mounted on `run`; skips where nobody may mount."""
    run = workplace / "run"
    run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(run)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")

    def resize(kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(run)], check=True)

    yield resize
    subprocess.run(["umount", str(run)], check=True)


def check_small_disk(gptlab: Command, resize: Callable[[int], None], kilobytes: int, undisturbed: Undisturbed) -> None:
    run = Path("run")
    resize(kilobytes)
    result = gptlab("train", *undisturbed.command)
    assert result.status in (0, 1, 2), result
    assert "Traceback" not in result.out + result.err
    if any(run.glob("checkpoints/*.ckpt")):
        gptlab_package.load(run)
    else:
        assert kilobytes < 200
    resize(64 * 1024)
    go_on(gptlab, run, undisturbed)
    assert differences(weights(run), weights(undisturbed.run)) == []


@pytest.mark.parametrize("kilobytes", [8, 100, 200, 300])
def test_a_disk_that_is_full(
    gptlab: Command, small_disk: Callable[[int], None], undisturbed: Undisturbed, kilobytes: int
) -> None:
    check_small_disk(gptlab, small_disk, kilobytes, undisturbed)
