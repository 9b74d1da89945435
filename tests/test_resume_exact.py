"""A run that was stopped and resumed is, bit for bit, the run that was not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from random import Random

import lightning as L
import pytest
import torch

from conftest import POEM, ROOT, TINY, Result
from gptlab.cli import main
from gptlab.training.callbacks.signals import ONE_PRESS
from same_run import assert_same_run, at_step, curve, read, rows, summary, weights

Command = Callable[..., Result]

STEPS = 7
EXACT = (*TINY, "model.dropout=0.2", f"max_steps={STEPS}", "validate_every=3", "save_every=2", "callbacks.curves=null")


@pytest.fixture
def workplace(workplace: Path) -> Path:
    (workplace / "poem.txt").write_text(POEM * 2)  # 12 windows, 3 steps: an epoch ends with step 3, another with 6
    return workplace


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """The run of these settings that nothing stops, made once, with a copy of its directory from each step's begin.

    The copy `<run>-<k>` is what kill -9 in step k leaves on the disk.
    """
    place = tmp_path_factory.mktemp("undisturbed")
    (place / "poem.txt").write_text(POEM * 2)

    def run(*changes: str) -> Path:
        name = "_".join(("run", *changes)).replace("/", "_")
        if not (place / name).exists():
            with pytest.MonkeyPatch.context() as patch, ExitStack() as photographer:
                patch.chdir(place)
                patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
                patch.setattr(sys, "argv", ["gptlab", "train"])
                for step in range(STEPS):
                    copy = (place / name, place / f"{name}-{step}")
                    photographer.enter_context(at_step(step, lambda copy=copy: shutil.copytree(*copy)))
                assert main(["train", *EXACT, *changes, f"run_dir={place / name}"]) == 0
        return place / name

    return run


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def press_twice() -> None:
    send(signal.SIGINT)
    time.sleep(1.2 * ONE_PRESS)
    send(signal.SIGINT)


def fail() -> None:
    raise RuntimeError("a cosmic ray")


STOPS: dict[str, tuple[Callable[[], object], int]] = {
    "SIGTERM": (lambda: send(signal.SIGTERM), 143),
    "Ctrl-C": (lambda: send(signal.SIGINT), 130),
    "Ctrl-C twice": (press_twice, 130),
    "an exception": (fail, 1),
}
"""What ends a run that can still do something about it, and its exit status."""


def stop(gptlab: Command, how: str, step: int, *arguments: str, hook: str = "training_step") -> Path:
    """A run that is stopped as `step` (from 0) begins, or in the validation before it."""
    do, status = STOPS[how]
    with at_step(step, do, hook=hook):
        result = gptlab("train", *arguments)
    assert result.status == status, result.err
    return Path("stopped")


def killed(run: Path, step: int) -> Path:
    """What was left of a run when it was killed in `step`, to go on with."""
    return Path(shutil.copytree(run.with_name(f"{run.name}-{step}"), "killed"))


def resume(gptlab: Command, run: Path, *changes: str) -> Path:
    result = gptlab("train", f"resume={run}", *changes)
    assert result.status == 0, result.err
    return run


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_in_any_step_it_goes_on_exactly(gptlab: Command, undisturbed: Callable[..., Path], step: int) -> None:
    run = killed(undisturbed(), step)
    resume(gptlab, run)
    assert_same_run(run, undisturbed())
    assert curve(run, "train/loss") == list(range(1, STEPS + 1))
    assert curve(run, "val/loss") == [3, 6, 7]


MOMENTS = [
    *(("training_step", step) for step in (1, 2, 5)),  # a save is due, a validation, both
    *(("on_before_optimizer_step", 2), ("on_train_batch_end", 3), ("on_train_batch_end", 4)),
    *((hook, 3) for hook in ("on_validation_epoch_start", "validation_step", "on_validation_epoch_end")),
]


@pytest.mark.parametrize(("hook", "step"), MOMENTS)
@pytest.mark.parametrize("how", ["SIGTERM", "an exception"])
def test_stopped_at_any_moment_it_goes_on_exactly(
    gptlab: Command, undisturbed: Callable[..., Path], how: str, hook: str, step: int
) -> None:
    run = stop(gptlab, how, step, *EXACT, "run_dir=stopped", hook=hook)
    assert summary(run)["status"] == ("failed" if how == "an exception" else "interrupted")
    resume(gptlab, run)
    assert_same_run(run, undisturbed())
    assert curve(run, "train/loss") == list(range(1, STEPS + 1))
    assert curve(run, "val/loss") == [3, 6, 7]


@pytest.mark.parametrize("how", ["Ctrl-C", "Ctrl-C twice"])
@pytest.mark.parametrize(("hook", "step"), [("training_step", 2), ("validation_step", 3)])
def test_stopped_by_hand_it_goes_on_exactly(
    gptlab: Command, undisturbed: Callable[..., Path], how: str, hook: str, step: int
) -> None:
    run = stop(gptlab, how, step, *EXACT, "run_dir=stopped", hook=hook)
    finishes_its_step = (how, hook) == ("Ctrl-C", "training_step")
    assert (summary(run)["status"], summary(run)["steps"]) == ("interrupted", step + finishes_its_step)
    assert_same_run(resume(gptlab, run), undisturbed())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "on_resume"),
    [
        ((), ("data.num_workers=2",)),
        (("data.num_workers=2",), ("data.num_workers=0",)),
        (("micro_batch_size=1",), ()),
        (("trainer.precision=bf16-mixed",), ()),
        (("data.stride=1",), ()),
        (("save_every=1", "validate_every=1"), ()),
        (("save_every=3", "validate_every=2"), ()),
        (("save_every=3",), ()),
        ((), ("save_every=1", "callbacks.samples=null")),
    ],
    ids=lambda changes: ",".join(changes) or "as it was",
)
def test_settings_that_leave_a_resume_exact(
    gptlab: Command, undisturbed: Callable[..., Path], changes: tuple[str, ...], on_resume: tuple[str, ...]
) -> None:
    run = resume(gptlab, killed(undisturbed(*changes), 5), *on_resume)
    assert_same_run(run, undisturbed(*changes))


def test_stopped_twice_it_goes_on_exactly(gptlab: Command, undisturbed: Callable[..., Path]) -> None:
    run = killed(undisturbed(), 1)
    stop(gptlab, "SIGTERM", 2, f"resume={run}")
    stop(gptlab, "an exception", 5, f"resume={run}")
    assert_same_run(resume(gptlab, run), undisturbed())


def test_killed_between_its_last_save_and_its_summary_a_run_is_completed(
    gptlab: Command, undisturbed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = L.Trainer.fit

    def fit_and_copy(*arguments: object, **named: object) -> None:
        fit(*arguments, **named)
        shutil.copytree("run", "killed")

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, "fit", fit_and_copy)
        assert gptlab("train", *EXACT, "run_dir=run").status == 0
    run = Path("killed")
    assert (summary(run)["status"], read(run / "checkpoints" / "last.ckpt")["global_step"]) == ("running", STEPS)
    assert_same_run(resume(gptlab, run), undisturbed())
    assert gptlab("train", f"resume={run}").status == 2, "it is finished"


@pytest.mark.parametrize("how", ["finished", "SIGTERM", "an exception"])
def test_a_longer_run_keeps_the_schedule_that_it_began_with(
    gptlab: Command, undisturbed: Callable[..., Path], how: str
) -> None:
    short = (*EXACT, "run_dir=stopped", "max_steps=6")
    run = Path("stopped")
    if how == "finished":
        assert gptlab("train", *short).status == 0
    else:
        stop(gptlab, how, 4, *short)
    resume(gptlab, run, f"max_steps={STEPS}")
    assert_same_run(run, undisturbed("schedule.total_steps=6"))


def test_a_longer_run_takes_a_longer_schedule_where_it_is_given_one(
    gptlab: Command, undisturbed: Callable[..., Path]
) -> None:
    gptlab("train", *EXACT, "run_dir=run", "max_steps=6")
    before = rows(Path("run"))
    resume(gptlab, Path("run"), "max_steps=7", "schedule.total_steps=7")
    assert rows(Path("run"))[:6] == before
    assert rows(Path("run"))[6]["lr"] == rows(undisturbed())[6]["lr"] != before[5]["lr"]


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", [*STOPS, "kill -9"])
def test_every_interval(gptlab: Command, undisturbed: Callable[..., Path], how: str) -> None:
    chance = Random(0)
    for save_every, validate_every in product((1, 2, 3, 5), (1, 2, 3, 4)):
        changes = (f"save_every={save_every}", f"validate_every={validate_every}")
        for step in chance.sample(range(STEPS), 3):
            if how == "kill -9":
                run = killed(undisturbed(*changes), step)
            else:
                hook = chance.choice(["training_step", "on_before_optimizer_step"])
                run = stop(gptlab, how, step, *EXACT, *changes, "run_dir=stopped", hook=hook)
            resume(gptlab, run)
            assert_same_run(run, undisturbed(*changes))
            shutil.rmtree(run)


RANKS = {
    1: ("trainer=cpu",),
    2: ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
}


def train(*arguments: str) -> None:
    """In a process of its own: ranks are processes that start the same command."""
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_go_on_exactly(workplace: Path) -> None:
    train(*EXACT, *RANKS[2], "run_dir=undisturbed", "schedule.total_steps=7")
    train(*EXACT, *RANKS[2], "run_dir=halves", "schedule.total_steps=7", "max_steps=3")
    train("resume=halves", f"max_steps={STEPS}")
    assert_same_run(workplace / "halves", workplace / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_the_number_of_ranks_may_change(workplace: Path, before: int, after: int) -> None:
    """The same global batches follow; sums are rounded in another order."""
    exact = [*EXACT, "model.dropout=0", "schedule.total_steps=7"]
    train(*exact, *RANKS[before], "run_dir=undisturbed")
    train(*exact, *RANKS[before], "run_dir=run", "max_steps=3")
    train("resume=run", f"max_steps={STEPS}", *RANKS[after])
    one, other = weights(workplace / "run"), weights(workplace / "undisturbed")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)
    for row, expected in zip(rows(workplace / "run"), rows(workplace / "undisturbed"), strict=True):
        assert row["step"] == expected["step"]
        assert row["tokens"] == expected["tokens"]
        assert float(row["train/loss"]) == pytest.approx(float(expected["train/loss"]), rel=1e-4)
        assert (row["val/loss"] == "") == (expected["val/loss"] == "")
