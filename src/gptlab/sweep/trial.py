"""One trial of a sweep: its process and its result."""

import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.training.run_files import read_summary

TRIAL = "GPTLAB_TRIAL"
"""Environment variable that tells a trial's process its number and its sweep: `<number>:<sweep directory>`."""
SAVE_TIMEOUT = 300.0
"""Seconds that a trial has to finish its step and save after it is told to stop."""
STATUSES = ("finished", "pruned", "failed", "interrupted", "running")
ENDED = STATUSES[:3]


@dataclass(frozen=True)
class Trial:
    """A trial that is to run."""

    number: int
    arguments: tuple[str, ...]  # its command line after `gptlab train`, without the run directory
    run_dir: Path  # absolute; `<sweep directory>/<number>`
    resumes: bool = False  # an earlier session of the sweep has started it

    @property
    def run_arguments(self) -> list[str]:
        """Its arguments; only `resume=` if there is a checkpoint to resume from."""
        has_saved = self.resumes and any(self.run_dir.glob("checkpoints/*.ckpt"))
        return [f"resume={self.run_dir}"] if has_saved else list(self.arguments)

    @property
    def command(self) -> list[str]:
        resumes = any(argument.startswith("resume=") for argument in self.run_arguments)
        place = [] if resumes else [f"run_dir={self.run_dir}"]
        return [sys.executable, "-m", "gptlab", "train", *self.run_arguments, *place, "hydra.mode=RUN"]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of its process. `python -m` would import modules from the working directory first."""
        return {TRIAL: f"{self.number}:{self.run_dir.parent}", "PYTHONSAFEPATH": "1"}


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended (finished, pruned, failed or interrupted), and the reason in one sentence."""

    status: str
    reason: str | None = None


@dataclass(frozen=True)
class TrialRecord:
    """What is known of a trial."""

    number: int
    status: str  # one of STATUSES; those in ENDED are final
    reason: str | None  # why it failed
    values: dict[str, Any]  # of each swept key, in the order of the search space
    metric: float | None  # the sweep's metric in summary.json (a pruned trial's last value); None if there is none
    summary: dict[str, Any]  # the content of summary.json; empty if there is none
    run_dir: Path  # absolute


def best_of(records: list[TrialRecord], *, direction: str) -> TrialRecord | None:
    """The finished trial with the best metric (`direction`: minimize or maximize); None if no trial has finished.

    Models that are not causal count only if there are no others, because their loss says little.
    """
    sign = 1.0 if direction == "minimize" else -1.0
    finished = [record for record in records if record.status == "finished" and record.metric is not None]
    causal = [record for record in finished if record.summary.get("causal", True)]
    return min(causal or finished, key=lambda record: sign * (record.metric or 0.0), default=None)


def this_trial() -> tuple[Path, int] | None:
    """The sweep directory and the number of the trial that this process runs; None outside a sweep."""
    number, _, sweep_dir = os.environ.get(TRIAL, "").partition(":")
    return (Path(sweep_dir), int(number)) if sweep_dir else None


def end_with_the_sweep() -> None:
    """Send this process SIGTERM when standard input ends: the sweep closed it, or the sweep was killed."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVE_TIMEOUT)
        os.killpg(0, signal.SIGKILL)  # no signal handler runs while a rank waits for another rank

    threading.Thread(target=watch, daemon=True).start()


def recorded_result(run_dir: Path) -> TrialResult | None:
    """The result that the run itself recorded; None if it neither finished nor was pruned."""
    status = read_summary(run_dir).get("status")
    return TrialResult(str(status)) if status in ("finished", "pruned") else None


def result_of(run_dir: Path, exit_status: int, output: str, *, was_stopped: bool) -> TrialResult:
    """The result of a trial whose process has ended, with minus the signal's number if a signal killed it."""
    if exit_status == 0:
        return recorded_result(run_dir) or TrialResult("failed", "its process ended without a result")
    if was_stopped and exit_status not in (1, 2):
        return TrialResult("interrupted", "the sweep was stopped")
    summary = read_summary(run_dir)
    if exit_status == 1 and summary.get("status") == "failed" and summary.get("failure"):
        return TrialResult("failed", summary["failure"])
    number = exit_status - 128 if exit_status > 128 else -exit_status
    if number in set(signal.Signals):
        hint = " (the system does this when memory runs out)" if number == 9 else ""
        return TrialResult("failed", f"its process was ended by {signal.Signals(number).name}{hint}")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith(("error: ", "failed: "))]
    last = (sentences or lines or [f"its process ended with status {exit_status}"])[-1]
    return TrialResult("failed", re.sub("^(error|failed): ", "", last))
