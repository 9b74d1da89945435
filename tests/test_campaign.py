"""The kill campaign: real runs, killed at random moments and resumed, again and again, become the undisturbed run.

GPTLAB_KILLS=200 for the long form, GPTLAB_SEED=<number> to play one again.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import gptlab as gptlab_package
from conftest import POEM, ROOT, TINY
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
    *TINY,
    *("context_length=32", "model.n_layers=2", "model.d_model=64", "model.dropout=0.2"),
    *("max_steps=600", "validate_every=90", f"save_every={SAVE_EVERY}", "callbacks.curves.every_seconds=1"),
    "run_dir=run",
)
TWO_RANKS = (*RUN, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "max_steps=200")


@dataclass
class Figures:
    """What a campaign can tell of itself."""

    stops: int = 0
    in_start_up: int = 0
    in_saves: int = 0
    steps_lost: int = 0

    def __str__(self) -> str:
        lost = self.steps_lost / max(1, self.stops - self.in_start_up)
        return (
            f"{self.stops} stops, {self.in_start_up} of them in start-up and {self.in_saves} in a save; "
            f"{lost:.1f} steps lost on average by the others"
        )


@dataclass
class Attempt:
    """A process that trains, or goes on with training."""

    run: Path
    process: subprocess.Popen
    output: Path
    rows_before: bytes

    @classmethod
    def begin(cls, run: Path, command: tuple[str, ...]) -> "Attempt":
        """`command`, or, where it has got as far as a config.yaml, the one that goes on."""
        arguments = [f"resume={run.name}"] if (run / "config.yaml").exists() else command
        output = run.with_name("output.txt")
        with output.open("w") as file:
            typed = [sys.executable, str(ROOT / "train.py"), *arguments]
            streams = {"stdout": file, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(typed, cwd=run.parent, **streams, start_new_session=True)
        return cls(run, process, output, _content(run / "metrics.csv"))

    def wait_for(self, happened: Callable[[], bool], pause: float) -> bool:
        """Whether something happened before the process ended."""
        while self.process.poll() is None:
            if happened():
                return True
            time.sleep(pause)
        return False

    def trains(self) -> bool:
        """Whether metrics.csv has a new row; at first, rows of behind the checkpoint are cut off."""
        return not self.rows_before.startswith(_content(self.run / "metrics.csv"))

    def saves(self) -> bool:
        return any(self.run.glob("checkpoints/*.tmp"))

    def kill(self) -> None:
        """With all that it has started."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        """Its exit status, once it has ended by itself."""
        status = self.process.wait(timeout=300)
        assert "Traceback" not in self.output.read_text(), self.output.read_text()
        return status


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def reach(moment: str, attempt: Attempt, chance: random.Random, start_up: float) -> bool:
    """Wait for a moment to stop in; False where the run ended before."""
    if moment == "start-up":
        time.sleep(chance.uniform(0, start_up))
        return attempt.process.poll() is None
    if not attempt.wait_for(attempt.trains, 0.02):
        return False
    time.sleep(chance.uniform(0, 1))
    if moment == "save" and not attempt.wait_for(attempt.saves, 0):
        return False
    time.sleep(chance.choice([0, chance.uniform(0, 0.01)]))
    return attempt.process.poll() is None


def newest_step(run: Path) -> int:
    """Of the newest checkpoint; 0 before there is one."""
    for name in ("last.ckpt", "previous.ckpt"):
        if (run / "checkpoints" / name).exists():
            return read(run / "checkpoints" / name)["global_step"]
    return 0


def logged_step(run: Path) -> int:
    """The last step of metrics.csv whose line is whole."""
    lines = _content(run / "metrics.csv").splitlines(keepends=True)[1:]
    return max((int(line.split(b",")[0]) for line in lines if line.endswith(b"\n")), default=0)


def note(figures: Figures, moment: str, run: Path, save_every: int) -> None:
    """What a stop left, and that it is no less than was promised."""
    figures.stops += 1
    figures.in_saves += any(run.glob("checkpoints/*.tmp"))
    if any(run.glob("checkpoints/*.ckpt")):
        gptlab_package.load(run)
    if moment == "start-up":
        figures.in_start_up += 1
        return
    lost = logged_step(run) - newest_step(run)
    assert lost <= save_every
    figures.steps_lost += max(0, lost)


class Undisturbed(NamedTuple):
    """A run that nothing stops, and the seconds from its begin to its first step."""

    run: Path
    start_up: float


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


def new_run(place: Path) -> Path:
    place.mkdir(exist_ok=True)
    (place / "poem.txt").write_text(POEM * 40)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    return place / "run"


def campaign(
    place: Path,
    command: tuple[str, ...],
    reference: Undisturbed,
    *,
    stops: int,
    of_a_run: int,
    weights: tuple[int, int, int],
    stop: Callable[[Attempt, str], bool],
    save_every: int,
) -> Figures:
    """Begin a run, stop it at random moments and go on with it, let it finish; again, until it was stopped so often.

    `stop(attempt, moment)` says whether it came before the run had ended; `weights` are those of start-up, training
    and a save; `save_every` is how many steps a stop may cost.
    """
    chance, figures = random.Random(SEED), Figures()
    while figures.stops < stops:
        run = new_run(place / str(figures.stops))
        goal = min(stops, figures.stops + of_a_run)
        while figures.stops < goal:
            (moment,) = chance.choices(["start-up", "training", "save"], weights=weights)
            attempt = Attempt.begin(run, command)
            if not (reach(moment, attempt, chance, reference.start_up) and stop(attempt, moment)):
                break
            note(figures, moment, run, save_every=save_every)
        finish(run, command, reference)
    return figures


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

    reference, began = undisturbed(command), time.monotonic()
    how = {"of_a_run": KILLS_OF_A_RUN, "weights": (5, 7, 8), "stop": kill, "save_every": SAVE_EVERY}
    figures = campaign(tmp_path, command, reference, stops=kills, **how)  # type: ignore[arg-type]
    assert figures.stops == kills
    tell(capfd, f"kill -9: {figures}", began)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_signals_a_run_ends_as_the_undisturbed_one(
    tmp_path: Path,
    undisturbed: Callable[[tuple[str, ...]], Undisturbed],
    capfd: pytest.CaptureFixture,
    number: int,
    status: int,
) -> None:
    def send(attempt: Attempt, moment: str) -> bool:
        attempt.process.send_signal(number)
        ended = attempt.end()
        if summary_status(attempt.run) == "finished":  # it came behind the last step
            return False
        assert ended == status or (moment == "start-up" and ended == -number), attempt.output.read_text()
        if moment != "start-up":
            assert summary_status(attempt.run) == "interrupted"
            assert "resume=run" in attempt.output.read_text()
        return True

    reference, began = undisturbed(RUN), time.monotonic()
    how = {"of_a_run": SIGNALS_OF_A_RUN, "weights": (1, 2, 2), "stop": send, "save_every": 0}
    figures = campaign(tmp_path, RUN, reference, stops=SIGNALS, **how)  # type: ignore[arg-type]
    assert figures.stops == SIGNALS
    tell(capfd, f"{signal.Signals(number).name}: {figures}", began)


def summary_status(run: Path) -> str | None:
    return summary(run)["status"] if (run / "summary.json").exists() else None


def finish(run: Path, command: tuple[str, ...], reference: Undisturbed) -> None:
    """Let it train to its end."""
    if summary_status(run) != "finished":
        attempt = Attempt.begin(run, command)
        assert attempt.end() == 0, attempt.output.read_text()
    assert summary(run)["status"] == "finished"
    assert_same_run(run, reference.run)


def tell(capfd: pytest.CaptureFixture, what: str, began: float) -> None:
    with capfd.disabled():
        print(f"\n{what}; {time.monotonic() - began:.0f} s (GPTLAB_SEED={SEED})")
