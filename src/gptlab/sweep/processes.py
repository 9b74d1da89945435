"""A pool of processes, one for each trial that is running."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from gptlab.signals import END_OF_PROCESS, signal_handler
from gptlab.sweep.trial import Trial, TrialResult, result_of

log = logging.getLogger("gptlab")

OUTPUT = "output.log"
"""What a trial's process printed, kept in the run directory if it failed."""
POLL_SECONDS = 0.02
SAME_CTRL_C = 0.3
"""Seconds: a wrapper around this process may pass a terminal's Ctrl-C on a second time."""


class Stopped(Exception):  # noqa: N818 (it is not an error)
    """A signal has stopped the sweep, and its trials have ended. The argument is the signal's number."""


def run_trials(trials: Iterator[Trial], environments: list[dict[str, str]]) -> Iterator[tuple[int, TrialResult]]:
    """Run trials as processes, one per worker environment. Yields numbers and results in the order in which they end.

    A trial is taken when a worker is free. Ctrl-C, SIGTERM and a closed terminal let the running trials finish their
    step and save, then Stopped is raised; a second Ctrl-C kills them. If this process dies, its trials notice, save and
    end.
    """
    running: dict[int, _Process] = {}  # by the index of the worker
    received: list[tuple[int, float]] = []  # signals and their times
    signals = [number for number in (signal.SIGINT, *END_OF_PROCESS) if signal.getsignal(number) != signal.SIG_IGN]
    with signal_handler(*signals, handler=lambda number, _: received.append((number, time.monotonic()))):
        try:
            has_said = False
            while True:
                for worker, environment in enumerate(environments):
                    if worker not in running and not received and (trial := next(trials, None)) is not None:
                        running[worker] = _Process(trial, environment)
                if not running:
                    break
                for worker, process in list(running.items()):
                    if process.popen.poll() is not None:
                        yield process.trial.number, running.pop(worker).result(was_stopped=bool(received))
                if received and not has_said:
                    log.info("stopping: running trials finish their step and save (Ctrl-C again kills them)")
                    has_said = True
                for process in running.values() if received else ():
                    process.stop()
                    if any(number == signal.SIGINT and at > received[0][1] + SAME_CTRL_C for number, at in received):
                        process.kill()
                time.sleep(POLL_SECONDS)
        finally:  # if the caller fails, for example because the disk is full, the trials save and end
            for process in running.values():
                process.stop()
    if received:
        raise Stopped(received[0][0])


class _Process:
    """The process of one trial, in a session of its own: the sweep handles a terminal's Ctrl-C."""

    def __init__(self, trial: Trial, environment: dict[str, str]) -> None:
        self.trial = trial
        trial.run_dir.mkdir(parents=True, exist_ok=True)
        self._output = trial.run_dir / OUTPUT
        with self._output.open("wb") as output:
            self.popen = subprocess.Popen(
                trial.command,
                env={**os.environ, **trial.environment, **environment},
                stdin=subprocess.PIPE,  # closing it stops the trial: see end_with_the_sweep
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        assert self.popen.stdin is not None
        with suppress(OSError):
            self.popen.stdin.close()

    def kill(self) -> None:
        """Kill the process and the ranks that it has started."""
        if sys.platform == "win32":
            self.popen.kill()
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)

    def result(self, *, was_stopped: bool) -> TrialResult:
        self.kill()  # ranks may outlive the first one
        self.stop()
        output = self._output.read_text(encoding="utf-8", errors="replace")
        result = result_of(self.trial.run_dir, self.popen.returncode, output, was_stopped=was_stopped)
        if result.status != "failed":
            self._output.unlink(missing_ok=True)
        return result
