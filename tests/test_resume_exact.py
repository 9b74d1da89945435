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

import pytest
import torch

from conftest import POEM, ROOT, TINY, Result
from gptlab.cli import main
from gptlab.training.callbacks.signals import ONE_PRESS
from same_run import assert_same_run, at_step, curve, rows, summary, weights

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


STOPS: dict[str, tuple[Callable[[], object], int, str]] = {
    "SIGTERM": (lambda: send(signal.SIGTERM), 143, "interrupted"),
    "Ctrl-C": (lambda: send(signal.SIGINT), 130, "interrupted"),
    "Ctrl-C twice": (press_twice, 130, "interrupted"),
    "an exception": (fail, 1, "failed"),
}
"""What ends a run that can still do something about it, its exit status, and its status in summary.json."""


def stop(gptlab: Command, how: str, step: int, *arguments: str, hook: str = "training_step") -> Path:
    """A run that is stopped as `step` (from 0) begins, or in the validation before it."""
    do, exit_status, status = STOPS[how]
    with at_step(step, do, hook=hook):
        result = gptlab("train", *arguments)
    assert result.status == exit_status, result.err
    assert summary(Path("stopped"))["status"] == status
    return Path("stopped")


def killed(run: Path, step: int) -> Path:
    """What was left of a run when it was killed in `step`."""
    return Path(shutil.copytree(run.with_name(f"{run.name}-{step}"), "stopped"))


def resume(gptlab: Command, run: Path, *changes: str) -> Path:
    result = gptlab("train", f"resume={run}", *changes)
    assert result.status == 0, result.err
    return run


HOOKS = ("on_train_batch_start", "training_step", "on_before_optimizer_step", "on_train_batch_end")
IN_VALIDATION = ("on_validation_epoch_start", "validation_step", "on_validation_epoch_end")
EVERY_MOMENT = [
    *product(("SIGTERM", "an exception"), HOOKS, (2, 5)),  # then a validation is due, or a save
    *product(("SIGTERM", "an exception", "Ctrl-C twice"), IN_VALIDATION, (3,)),
]
MOMENTS = [
    *(("SIGTERM", "training_step", 2), ("SIGTERM", "on_train_batch_end", 5), ("SIGTERM", "validation_step", 3)),
    *(("an exception", "on_before_optimizer_step", 5), ("an exception", "on_validation_epoch_end", 3)),
    ("SIGTERM", "validation_step", 7),  # the last validation
    *(("Ctrl-C", "training_step", 1), ("Ctrl-C twice", "training_step", 2)),
]


def slow(moments: list[tuple[str, str, int]]) -> list:
    return [pytest.param(*moment, marks=pytest.mark.slow) for moment in moments]


@pytest.mark.parametrize(
    ("how", "hook", "step"), MOMENTS + slow([moment for moment in EVERY_MOMENT if moment not in MOMENTS])
)
def test_a_stopped_run_resumes_exactly(
    gptlab: Command, undisturbed: Callable[..., Path], how: str, hook: str, step: int
) -> None:
    run = stop(gptlab, how, step, *EXACT, "run_dir=stopped", hook=hook)
    if hook == "training_step":
        finishes_its_step = how in ("SIGTERM", "Ctrl-C")
        assert summary(run)["steps"] == step + finishes_its_step
    assert_same_run(resume(gptlab, run), undisturbed())
    assert curve(run, "train/loss") == list(range(1, STEPS + 1))
    assert curve(run, "val/loss") == [3, 6, 7]


@pytest.mark.parametrize("step", [0, 3, 5, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 2, 4, 6))])
def test_a_killed_run_resumes_exactly(gptlab: Command, undisturbed: Callable[..., Path], step: int) -> None:
    run = resume(gptlab, killed(undisturbed(), step))
    assert_same_run(run, undisturbed())
    assert curve(run, "train/loss") == list(range(1, STEPS + 1))
    assert curve(run, "val/loss") == [3, 6, 7]


def test_a_run_that_is_stopped_again_and_again_resumes_exactly(
    gptlab: Command, undisturbed: Callable[..., Path]
) -> None:
    run = killed(undisturbed(), 1)
    stop(gptlab, "SIGTERM", 2, f"resume={run}")
    stop(gptlab, "an exception", 5, f"resume={run}")
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
        ((), ("save_every=1", "callbacks.samples=null")),
    ],
    ids=lambda changes: ",".join(changes) or "as it was",
)
def test_settings_that_leave_a_resume_exact(
    gptlab: Command, undisturbed: Callable[..., Path], changes: tuple[str, ...], on_resume: tuple[str, ...]
) -> None:
    run = resume(gptlab, killed(undisturbed(*changes), 5), *on_resume)
    assert_same_run(run, undisturbed(*changes))


@pytest.mark.parametrize("how", ["finished", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_a_longer_run_keeps_the_schedule_that_it_began_with(
    gptlab: Command, undisturbed: Callable[..., Path], how: str
) -> None:
    short = (*EXACT, "run_dir=stopped", "max_steps=6")
    if how == "finished":
        assert gptlab("train", *short).status == 0
    else:
        stop(gptlab, how, 4, *short)
    run = resume(gptlab, Path("stopped"), f"max_steps={STEPS}")
    assert_same_run(run, undisturbed("schedule.total_steps=6"))


def test_a_longer_run_takes_a_longer_schedule_if_it_is_given_one(
    gptlab: Command, undisturbed: Callable[..., Path]
) -> None:
    run = resume(gptlab, killed(undisturbed(), 6), "max_steps=8", "schedule.total_steps=8")
    assert rows(run)[:6] == rows(undisturbed())[:6]
    assert float(rows(run)[6]["lr"]) > float(rows(undisturbed())[6]["lr"])


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
@pytest.mark.parametrize(
    ("before", "after", "optimizer"), [(2, 2, "adamw"), (2, 1, "adamw"), (1, 2, "adamw"), (2, 2, "muon")]
)
def test_ranks_resume(workplace: Path, before: int, after: int, optimizer: str) -> None:
    """The same number exactly. For another number the same global batches follow; sums are rounded in another order."""
    exact = (
        *EXACT,
        *RANKS[before],
        f"optimizer={optimizer}",
        "schedule.total_steps=7",
        f"model.dropout={0.2 if before == after else 0}",
    )
    train(*exact, "run_dir=undisturbed")
    train(*exact, "run_dir=run", "max_steps=3")
    train("resume=run", f"max_steps={STEPS}", *(RANKS[after] if before != after else ()))
    run, undisturbed = workplace / "run", workplace / "undisturbed"
    if before == after:
        assert_same_run(run, undisturbed)
    torch.testing.assert_close(weights(run), weights(undisturbed), rtol=1e-4, atol=1e-5)
    for row, expected in zip(rows(run), rows(undisturbed), strict=True):
        assert (row["step"], row["tokens"]) == (expected["step"], expected["tokens"])
        assert float(row["train/loss"]) == pytest.approx(float(expected["train/loss"]), rel=1e-4)
