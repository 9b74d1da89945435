"""The kill campaign: real runs, killed at random moments and resumed, again and again, become the undisturbed run.

GPTLAB_KILLS=200 for the long form, GPTLAB_SEED=<number> to repeat one.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import gptlab as gptlab_package
from conftest import DRAWN, POEM, ROOT
from same_run import assert_same_run, read, summary

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("GPTLAB_KILLS", "20"))
SIGNALS = max(4, KILLS // 10)
KILLS_OF_TWO_RANKS = max(2, KILLS // 20)
SEED = int(os.environ.get("GPTLAB_SEED", random.randrange(10**6)))
KILLS_OF_A_RUN = 20
SIGNALS_OF_A_RUN = 5  # which lose no step, so that it is soon done

SAVE_EVERY = 5
RUN = (
    *DRAWN,
    *("context_length=32", "model.n_layers=2", "model.d_model=64", "model.dropout=0.2"),
    *("max_steps=600", "validate_every=90", f"save_every={SAVE_EVERY}", "callbacks.curves.every_seconds=1"),
    "run_dir=run",
)
TWO_RANKS = (*RUN, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "max_steps=200")


@dataclass
class Attempt:
    """A process that trains, or resumes."""

    run: Path
    process: subprocess.Popen
    output: Path
    rows_before: bytes

    @classmethod
    def begin(cls, run: Path, command: tuple[str, ...]) -> "Attempt":
        """`command`, or, after it has got as far as a config.yaml, the one that resumes."""
        arguments = [f"resume={run.name}"] if (run / "config.yaml").exists() else command
        output = run.with_name("output.txt")
        with output.open("w") as file:
            typed = [sys.executable, str(ROOT / "train.py"), *arguments]
            streams = {"stdout": file, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(typed, cwd=run.parent, **streams, start_new_session=True)
        return cls(run, process, output, content(run / "metrics.csv"))

    def wait_for(self, happened: Callable[[], bool], pause: float) -> bool:
        """Whether something happened before the process ended."""
        while self.process.poll() is None:
            if happened():
                return True
            time.sleep(pause)
        return False

    def trains(self) -> bool:
        """Whether metrics.csv has a new row; at first, rows after the checkpoint are cut off."""
        return not self.rows_before.startswith(content(self.run / "metrics.csv"))

    def saves(self) -> bool:
        return any(self.run.glob("checkpoints/*.tmp"))

    def reach(self, moment: str, chance: random.Random, start_up: float) -> bool:
        """Wait for a moment to stop in; False if the run ended before."""
        if moment == "start-up":
            time.sleep(chance.uniform(0, start_up))
            return self.process.poll() is None
        if not self.wait_for(self.trains, 0.02):
            return False
        time.sleep(chance.uniform(0, 1))
        if moment == "save" and not self.wait_for(self.saves, 0):
            return False
        time.sleep(chance.choice([0, chance.uniform(0, 0.01)]))
        return self.process.poll() is None

    def kill(self) -> None:
        """With all that it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Its exit status, after it has ended by itself."""
        status = self.process.wait(timeout=300)
        assert "Traceback" not in self.output.read_text(), self.output.read_text()
        return status


def content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def steps_lost(run: Path) -> int:
    """Steps in whole lines of metrics.csv that are not in the newest checkpoint."""
    lines = content(run / "metrics.csv").splitlines(keepends=True)[1:]
    logged = max((int(line.split(b",")[0]) for line in lines if line.endswith(b"\n")), default=0)
    checkpoints = [run / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt")]
    saved = next((read(path)["global_step"] for path in checkpoints if path.exists()), 0)
    return max(0, logged - saved)


class Undisturbed(NamedTuple):
    """A run that nothing stops, and the seconds from its begin to its first step."""

    run: Path
    start_up: float


def new_run(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    (place / "poem.txt").write_text(POEM * 40)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    return place / "run"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Undisturbed]:
    """The run of a command, made once."""

    @cache
    def run_of(command: tuple[str, ...]) -> Undisturbed:
        run = new_run(tmp_path_factory.mktemp("undisturbed"))
        began = time.monotonic()
        attempt = Attempt.begin(run, command)
        attempt.wait_for(attempt.trains, 0.02)
        start_up = time.monotonic() - began
        assert attempt.end() == 0, attempt.output.read_text()
        return Undisturbed(run, start_up)

    return run_of


class Campaign(NamedTuple):
    """Begin a run, stop it at random moments and resume it, let it finish; again, until it was stopped so often.

    `stop(attempt, moment)` says whether it came before the run had ended; `weights` are those of start-up, training
    and a save; `save_every` is how many steps a stop may cost.
    """

    command: tuple[str, ...]
    stops: int
    of_a_run: int
    weights: tuple[int, int, int]
    stop: Callable[[Attempt, str], bool]
    save_every: int

    def __call__(self, place: Path, reference: Undisturbed, capfd: pytest.CaptureFixture) -> None:
        chance, counts, began = random.Random(SEED), Counter[str](), time.monotonic()
        while counts["stops"] < self.stops:
            run = new_run(place / str(counts["stops"]))
            goal = min(self.stops, counts["stops"] + self.of_a_run)
            while counts["stops"] < goal:
                (moment,) = chance.choices(["start-up", "training", "save"], weights=self.weights)
                attempt = Attempt.begin(run, self.command)
                if not (attempt.reach(moment, chance, reference.start_up) and self.stop(attempt, moment)):
                    break
                self.check(run, moment, counts)
            if status(run) != "finished":
                attempt = Attempt.begin(run, self.command)
                assert attempt.end() == 0, attempt.output.read_text()
            assert status(run) == "finished"
            assert_same_run(run, reference.run)
        with capfd.disabled():
            print(f"\n{dict(counts)} in {time.monotonic() - began:.0f} s (GPTLAB_SEED={SEED})")

    def check(self, run: Path, moment: str, counts: Counter[str]) -> None:
        """What a stop left is no less than was promised."""
        counts.update({"stops": 1, moment: 1, "unfinished files": any(run.glob("checkpoints/*.tmp"))})
        if any(run.glob("checkpoints/*.ckpt")):
            gptlab_package.load(run)
        if moment != "start-up":
            assert steps_lost(run) <= self.save_every
            counts["steps lost"] += steps_lost(run)


@pytest.mark.parametrize(
    ("command", "kills"), [(RUN, KILLS), (TWO_RANKS, KILLS_OF_TWO_RANKS)], ids=["one rank", "two ranks"]
)
def test_killed_again_and_again_a_run_ends_as_the_undisturbed_one(
    tmp_path: Path,
    undisturbed: Callable[[tuple[str, ...]], Undisturbed],
    capfd: pytest.CaptureFixture,
    command: tuple[str, ...],
    kills: int,
) -> None:
    def kill(attempt: Attempt, moment: str) -> bool:
        attempt.kill()
        return True

    campaign = Campaign(command, kills, KILLS_OF_A_RUN, weights=(5, 7, 8), stop=kill, save_every=SAVE_EVERY)
    campaign(tmp_path, undisturbed(command), capfd)


@pytest.mark.parametrize(("number", "exit_status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_signals_a_run_ends_as_the_undisturbed_one(
    tmp_path: Path,
    undisturbed: Callable[[tuple[str, ...]], Undisturbed],
    capfd: pytest.CaptureFixture,
    number: int,
    exit_status: int,
) -> None:
    def send(attempt: Attempt, moment: str) -> bool:
        attempt.process.send_signal(number)
        ended = attempt.end()
        if status(attempt.run) == "finished":  # it came after the last step
            return False
        assert ended == exit_status or (moment == "start-up" and ended == -number), attempt.output.read_text()
        if moment != "start-up":
            assert status(attempt.run) == "interrupted"
            assert "resume=run" in attempt.output.read_text()
        return True

    campaign = Campaign(RUN, SIGNALS, SIGNALS_OF_A_RUN, weights=(1, 2, 2), stop=send, save_every=0)
    campaign(tmp_path, undisturbed(RUN), capfd)


def status(run: Path) -> str | None:
    return summary(run)["status"] if (run / "summary.json").exists() else None
