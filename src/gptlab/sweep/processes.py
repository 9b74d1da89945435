"""Trials side by side, each a process of its own."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import IO

from gptlab.signals import END_OF_PROCESS, answering
from gptlab.sweep.trial import OUTPUT, PATIENCE, End, Job, end_of, recorded_end

log = logging.getLogger("gptlab")

POLL = 0.02
"""Seconds between two looks whether a process has ended."""
ONE_PRESS = 0.3
"""Seconds. A terminal's Ctrl-C may come twice."""


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A signal has stopped the sweep; all its trials have ended.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    output: IO[bytes]
    lane: int


def run_processes(jobs: Iterator[Job], lanes: list[dict[str, str]]) -> Iterator[tuple[Job, End]]:
    """Run jobs, as many at once as there are lanes; yield each with its end, in the order in which they end.

    A job is taken when a lane is free. Ctrl-C, SIGTERM and a closed terminal let each trial finish its step and save; a
    second Ctrl-C kills them. Whatever ends this process, a trial notices, and ends too.

    Args:
        jobs: what is to be run.
        lanes: of each process that runs at once, the environment that gives it its share of the machine.

    Raises:
        Stopped: when all have ended of which a signal wanted it.
    """
    running: list[_Running] = []
    stop = _Stop()
    answered = [number for number in (signal.SIGINT, *END_OF_PROCESS) if signal.getsignal(number) != signal.SIG_IGN]
    with answering(*answered, by=stop):  # but for what nohup ignores
        try:
            while True:
                free = [lane for lane in range(len(lanes)) if lane not in {trial.lane for trial in running}]
                while free and stop.signal is None and (job := next(jobs, None)) is not None:
                    end = recorded_end(job.run_dir) if job.goes_on else None
                    if end is not None:  # the sweep was killed before it could write this down
                        yield job, end
                    else:
                        running.append(_begin(job, free[0], lanes[free.pop(0)]))
                if not running:
                    break
                for trial in [trial for trial in running if trial.process.poll() is not None]:
                    running.remove(trial)
                    yield trial.job, _end(trial, was_stopped=stop.signal is not None)
                if stop.signal is not None:
                    stop.say_once(len(running))
                    _tell_to_go(running, at_once=stop.at_once or stop.is_overdue)
                time.sleep(POLL)
        finally:  # where whoever takes the ends has failed, as on a full disk
            _tell_to_go(running, at_once=stop.at_once)
            deadline = time.monotonic() + PATIENCE
            while any(trial.process.poll() is None for trial in running) and time.monotonic() < deadline:
                if stop.signal is not None:  # Ctrl-C now is the second one: what has failed here is the first
                    break
                time.sleep(POLL)
            _tell_to_go(running, at_once=True)
    if stop.signal is not None:
        raise Stopped(stop.signal)


class _Stop:
    """Answers the signals that stop a sweep."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.at_once = False
        self._received_at = 0.0
        self._has_said = False

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() - self._received_at > PATIENCE

    def say_once(self, n_running: int) -> None:
        """Not where the signal is handled, which may be in the midst of another line."""
        if not self._has_said and n_running:
            self._has_said = True
            log.info("stopping: %d under way finish their step and save (Ctrl-C again leaves at once)", n_running)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._received_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._received_at > ONE_PRESS:
            self.at_once = True


def _begin(job: Job, lane: int, share: dict[str, str]) -> _Running:
    job.run_dir.mkdir(parents=True, exist_ok=True)
    output = (job.run_dir / OUTPUT).open("w+b")
    process = subprocess.Popen(
        job.command,
        env={**os.environ, **job.environment, **share},
        stdin=subprocess.PIPE,  # which it watches: see sweep.trial.end_with_the_sweep
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a terminal's Ctrl-C is the sweep's to answer
    )
    return _Running(job, process, output, lane)


def _end(trial: _Running, *, was_stopped: bool) -> End:
    with trial.output:
        trial.output.seek(0)
        said = trial.output.read().decode(errors="replace")
    _kill(trial.process)  # ranks that have outlived the first
    assert trial.process.stdin is not None
    with suppress(OSError):
        trial.process.stdin.close()
    end = end_of(trial.job.run_dir, trial.process.returncode, said, was_stopped=was_stopped)
    if end.status != "failed":
        (trial.job.run_dir / OUTPUT).unlink(missing_ok=True)
    return end


def _tell_to_go(running: list[_Running], *, at_once: bool) -> None:
    for trial in running:
        assert trial.process.stdin is not None
        with suppress(OSError):
            trial.process.stdin.close()
        if at_once:
            _kill(trial.process)


def _kill(process: subprocess.Popen) -> None:
    """A process with all that it has started."""
    if sys.platform == "win32":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
