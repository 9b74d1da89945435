import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gptlab.errors import UserError
from gptlab.training.run_dir import create_run_dir, is_rank_zero, lock_run_dir, shared_by_ranks


def test_two_runs_of_one_second_get_two_directories(workplace: Path) -> None:
    with ExitStack() as stack:
        directories = [stack.enter_context(create_run_dir(None, "default")) for _ in range(5)]
        assert len(set(directories)) == 5
        assert all(directory.parent == workplace / "outputs" / "default" for directory in directories)
    assert not (workplace / "outputs").exists(), "runs that never wrote their configuration leave nothing"


def test_a_directory_with_a_checkpoint_is_refused_with_the_way_on(workplace: Path) -> None:
    (workplace / "mine" / "checkpoints").mkdir(parents=True)
    (workplace / "mine" / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"holds a run already: use resume=.*mine"):
        create_run_dir("mine", "default").__enter__()


def test_files_that_no_run_wrote_are_left_alone(workplace: Path) -> None:
    (workplace / "config.yaml").write_text("mine: 1")
    with pytest.raises(UserError, match=r"holds a config\.yaml that no run wrote"):
        create_run_dir(".", "default").__enter__()
    assert (workplace / "config.yaml").read_text() == "mine: 1"


def test_a_directory_without_a_checkpoint_is_started_over(workplace: Path) -> None:
    (workplace / "mine").mkdir()
    for name in ("metrics.csv", "events.out.tfevents.1", "notes.txt"):
        (workplace / "mine" / name).write_text("old")
    (workplace / "mine" / "config.yaml").write_text("{model: {}, optimizer: {}}")
    with create_run_dir("mine", "default") as directory:
        assert directory == workplace / "mine"
        assert not (directory / "metrics.csv").exists()
    assert (directory / "notes.txt").read_text() == "old", "what is the user's stays"


@pytest.mark.parametrize(
    ("variables", "is_zero"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),  # launched by Lightning in a shell of a SLURM job
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
        ({"SLURM_PROCID": "0"}, True),
    ],
)
def test_one_process_is_rank_zero(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_zero: bool) -> None:
    for variable in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert is_rank_zero() is is_zero


def never() -> Path:
    raise AssertionError("only the first rank chooses")


def test_another_rank_goes_where_it_is_told_and_touches_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(UserError, match="give them all the same run_dir="):
        shared_by_ranks(never, wanted=None)
    assert shared_by_ranks(never, wanted="mine") == workplace / "mine"
    monkeypatch.setenv("GPTLAB_RUN_DIR", "/told")
    assert shared_by_ranks(never, wanted=None) == Path("/told")
    assert [path.name for path in workplace.iterdir()] == ["poem.txt"]


HOLDS = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_trains_is_refused_until_that_is_gone(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlab.training.run_dir.LOCK_TIMEOUT", 0.2)
    command = [sys.executable, "-c", HOLDS, str(workplace / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match="another process is training this run"),
            lock_run_dir(workplace, key="resume"),
        ):
            pass
        other.kill()
    with lock_run_dir(workplace, key="resume"):
        assert (workplace / ".lock").exists()
    assert not (workplace / ".lock").exists()
