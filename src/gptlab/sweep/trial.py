"""A trial as a process of its own: its command, and what its end means."""

import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from gptlab.training.run_files import read_summary

TRIAL = "GPTLAB_TRIAL"
"""Environment variable by which the process of a trial knows which one it is: `<number>:<sweep directory>`."""
PATIENCE = 300.0
"""Seconds that a trial has to finish its step and save, when it is told to go."""
OUTPUT = "output.log"
"""All that the process has said, beside the run; a run that has finished has said it in its train.log too."""


@dataclass(frozen=True)
class Job:
    """One trial, for whoever runs it.

    Attributes:
        number: of the trial.
        words: its command line behind `gptlab train`, but for the run directory.
        run_dir: where its run lies.
        goes_on: whether an earlier session of the sweep has begun it: what lies in its directory is its own.
    """

    number: int
    words: tuple[str, ...]
    run_dir: Path
    goes_on: bool = False

    @property
    def command(self) -> list[str]:
        """Goes on with the run where it has saved something, and starts it over where it has not."""
        words = [*self.words, f"run_dir={self.run_dir}"]
        if self.goes_on and has_saved(self.run_dir):
            words = [f"resume={self.run_dir}"]
        elif any(word.startswith("resume=") for word in self.words):  # another launcher's job that goes on
            words = list(self.words)
        return [sys.executable, "-m", "gptlab", "train", *words, "hydra.mode=RUN"]

    @property
    def environment(self) -> dict[str, str]:
        """What its process gets besides: its name, and the modules that lie beside a script, as `_target_` may."""
        beside = [sys.path[0]] if sys.argv[0].endswith(".py") and sys.path[0] else []
        path = os.pathsep.join([*beside, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {
            TRIAL: f"{self.number}:{self.run_dir.parent}",
            "PYTHONSAFEPATH": "1",  # `python -m` would import what lies where the user stands
            **({"PYTHONPATH": path} if path else {}),
        }


@dataclass(frozen=True)
class End:
    """How a trial has ended: finished, pruned, failed or interrupted; and why, in one sentence."""

    status: str
    reason: str | None = None


def has_saved(run_dir: Path) -> bool:
    """Whether there is a run that can go on."""
    return any(run_dir.glob("checkpoints/*.ckpt"))


def this_trial() -> tuple[Path, int] | None:
    """The sweep's directory and the number, where this process is a trial's."""
    number, _, sweep_dir = os.environ.get(TRIAL, "").partition(":")
    return (Path(sweep_dir), int(number)) if sweep_dir else None


def end_with_the_sweep() -> None:
    """Let this process be told to go (SIGTERM) when standard input ends: the sweep closes it, or has been killed."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os.killpg(0, signal.SIGKILL)  # it hangs where no handler runs, as in waiting for another rank

    threading.Thread(target=watch, daemon=True).start()


def recorded_end(run_dir: Path) -> End | None:
    """What the run itself says of its end; None where it has none that counts for a sweep."""
    status = read_summary(run_dir).get("status")
    return End(str(status)) if status in ("finished", "pruned") else None


def end_of(run_dir: Path, exit_status: int, said: str, *, was_stopped: bool) -> End:
    """How a trial has ended.

    Args:
        run_dir: of the run; there may be none.
        exit_status: of its process; minus the signal's number where it was killed.
        said: its output, or the last line of it.
        was_stopped: whether the sweep has told it to go.
    """
    summary = read_summary(run_dir)
    if exit_status == 0:
        return recorded_end(run_dir) or End("failed", "its process ended without a result")
    if was_stopped and exit_status not in (1, 2):
        return End("interrupted", "the sweep was stopped")
    if exit_status == 1 and summary.get("status") == "failed" and summary.get("failure"):
        return End("failed", summary["failure"])
    number = exit_status - 128 if exit_status > 128 else -exit_status
    if number in {int(known) for known in signal.Signals}:
        name = signal.Signals(number).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return End("failed", f"its process was ended by {name}{hint}")
    return End("failed", _last_line(said) or f"its process ended with status {exit_status}")


def _last_line(said: str) -> str:
    """The sentence that the command has ended with, or else whatever it said last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    sentences = [line for line in lines if line.startswith(("error: ", "failed: "))]
    last = (sentences or lines or [""])[-1]
    return re.sub("^(error|failed): ", "", last)
