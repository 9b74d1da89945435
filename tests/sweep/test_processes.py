"""Trials side by side, as processes: here Python one-liners stand for them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptlab.sweep import processes
from gptlab.sweep.processes import Stopped, run_trials
from gptlab.sweep.trial import TRIAL, Trial, TrialResult, this_trial

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
UNTIL_STDIN_ENDS = "import sys; sys.stdin.read(); sys.exit(143)"


@pytest.fixture(autouse=True)
def one_liners(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial's arguments are a program; it stands in its run directory."""
    program = "import os, sys; os.chdir(sys.argv[1]); exec(sys.argv[2])"
    command = property(lambda job: [sys.executable, "-c", program, str(job.run_dir), *job.arguments])
    monkeypatch.setattr(Trial, "command", command)


def jobs(place: Path, *programs: str) -> Iterator[Trial]:
    return (Trial(number, (program,), place / str(number)) for number, program in enumerate(programs))


def ended(place: Path, *programs: str, workers: int = 1) -> dict[int, TrialResult]:
    return dict(run_trials(jobs(place, *programs), [{}] * workers))


def finishes(**summary: object) -> str:
    content = json.dumps({"status": "finished", **summary})
    return f"open('summary.json', 'w').write({content!r})"


def test_the_end_of_each_process_is_that_trial_s_and_no_other_s(tmp_path: Path) -> None:
    ends = ended(
        tmp_path,
        finishes(),
        finishes(status="pruned"),
        "print('error: d_model=3 is odd'); sys.exit(2)",
        "print('failed: MemoryError: too much\\nand more'); sys.exit(1)",
        f"{finishes(status='failed', failure='the loss is nan in step 4')}; sys.exit(1)",
        "os.kill(os.getpid(), 9)",
        "sys.exit(0)",
        workers=2,
    )
    assert [ends[number].status for number in range(7)] == ["finished", "pruned", *["failed"] * 5]
    assert [ends[number].reason for number in range(2, 7)] == [
        "d_model=3 is odd",
        "MemoryError: too much",
        "the loss is nan in step 4",
        "its process was ended by SIGKILL (the system does this when memory runs out)",
        "its process ended without a result",
    ]
    assert not (tmp_path / "0" / "output.log").exists()
    assert (tmp_path / "2" / "output.log").read_text() == "error: d_model=3 is odd\n", "kept where it failed"


def test_each_worker_runs_one_trial_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    say = f"open({str(log)!r}, 'a').write"
    program = f"import time; w = os.environ['WORKER']; {say}(w + ' '); time.sleep(0.1); {say}('-' + w + ' ')"
    ends = list(run_trials(jobs(tmp_path, *[program] * 4), [{"WORKER": "a"}, {"WORKER": "b"}]))
    assert len(ends) == 4
    busy: set[str] = set()
    for word in log.read_text().split():
        if word.startswith("-"):
            busy.remove(word[1:])
        else:
            assert word not in busy
            busy.add(word)


def test_a_trial_knows_which_one_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(7, (f"open('name', 'w').write(os.environ['{TRIAL}'])",), tmp_path / "a: b" / "7")
    assert len(list(run_trials(iter([trial]), [{}]))) == 1
    monkeypatch.setenv(TRIAL, (trial.run_dir / "name").read_text())
    assert this_trial() == (tmp_path / "a: b", 7)
    monkeypatch.delenv(TRIAL)
    assert this_trial() is None


@POSIX
def test_a_signal_lets_trials_save_and_begins_no_more(tmp_path: Path) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    ends = {}
    running = run_trials(jobs(tmp_path, finishes(), *[UNTIL_STDIN_ENDS] * 4), [{}] * 2)
    with pytest.raises(Stopped) as stopped:
        ends.update((number, end.status) for number, end in running)
    assert stopped.value.args[0] == signal.SIGTERM
    assert ends == {0: "finished", 1: "interrupted", 2: "interrupted"}


@POSIX
def test_a_second_ctrl_c_kills_what_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SAME_CTRL_C", 0.01)
    for delay in (0.4, 0.6):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        assert [end.status for _, end in run_trials(jobs(tmp_path, "import time; time.sleep(60)"), [{}])] == [
            "interrupted"
        ]
    assert time.monotonic() - began < 20


@POSIX
def test_what_a_trial_has_started_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import subprocess; p = subprocess.Popen(['sleep', '60']); open('pid', 'w').write(str(p.pid)); sys.exit(1)"
    )
    ended(tmp_path, program)
    pid = int((tmp_path / "0" / "pid").read_text())
    deadline = time.monotonic() + 10
    while subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip("Z \n+"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
