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
        "import signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "sys.exit(0)",
        "sys.exit(7)",
        workers=2,
    )
    assert [ends[number].status for number in range(9)] == ["finished", "pruned", *["failed"] * 7]
    assert [ends[number].reason for number in range(2, 9)] == [
        "d_model=3 is odd",
        "MemoryError: too much",
        "the loss is nan in step 4",
        "its process was ended by SIGKILL (the system does this when memory runs out)",
        "its process was ended by SIGSEGV",
        "its process ended without a result",
        "its process ended with status 7",
    ]


def test_what_a_process_said_is_kept_where_it_failed(tmp_path: Path) -> None:
    ended(tmp_path, f"print('fine'); {finishes()}", "print('Traceback', file=sys.stderr); sys.exit(1)")
    assert not (tmp_path / "0" / "output.log").exists()
    assert (tmp_path / "1" / "output.log").read_text() == "Traceback\n"


def test_as_many_run_at_once_as_there_are_workers_and_a_worker_is_free_again_when_its_trial_ends(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    say = f"open({str(log)!r}, 'a').write"
    program = (
        f"import time; {say}(os.environ['WORKER'] + ' '); time.sleep(0.2); {say}('-' + os.environ['WORKER'] + ' ')"
    )
    taken = []

    def watched() -> Iterator[Trial]:
        for job in jobs(tmp_path, *[program] * 5):
            taken.append(time.monotonic())
            yield job

    ends = list(run_trials(watched(), [{"WORKER": "a"}, {"WORKER": "b"}]))
    assert len(ends) == 5
    busy: set[str] = set()
    for word in log.read_text().split():
        if word.startswith("-"):
            busy.remove(word[1:])
        else:
            assert word not in busy
            busy.add(word)
    assert taken[2] - taken[0] > 0.2  # it was not taken before there was room for it


def test_a_trial_knows_which_one_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(
        run_trials(
            iter([Trial(7, (f"open('name', 'w').write(os.environ['{TRIAL}'])",), tmp_path / "a: b" / "7")]), [{}]
        )
    )
    monkeypatch.setenv(TRIAL, (tmp_path / "a: b" / "7" / "name").read_text())
    assert this_trial() == (tmp_path / "a: b", 7)
    monkeypatch.delenv(TRIAL)
    assert this_trial() is None


def test_what_another_run_has_left_is_not_taken_for_a_trial_s_end(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_text('{"status": "finished"}')
    assert ended(tmp_path, "print('failed: ran'); sys.exit(1)")[0] == TrialResult("failed", "ran")


@POSIX
def test_a_terminal_that_is_closed_under_nohup_stops_nothing(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGHUP)).start()
        assert ended(tmp_path, f"import time; time.sleep(0.5); {finishes()}")[0] == TrialResult("finished")
    finally:
        signal.signal(signal.SIGHUP, before)


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


def test_trials_save_and_end_if_the_sweep_fails(tmp_path: Path) -> None:
    results = run_trials(jobs(tmp_path, finishes(), "sys.stdin.read(); open('saved', 'w').close()"), [{}] * 2)
    next(results)
    results.close()
    deadline = time.monotonic() + 20
    while not (tmp_path / "1" / "saved").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
