"""What could make a resume lose what it was to go on from."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import lightning as L
import pytest
import torch

from conftest import TINY, Result
from same_run import curve, read, rows, summary

Command = Callable[..., Result]


class Accident(L.Callback):
    """Raises in one hook."""

    def __init__(self, *, hook: str) -> None:
        setattr(self, hook, self._raise)

    def _raise(self, *_: object, **__: object) -> None:
        raise RuntimeError("a callback of one's own")


ACCIDENT = "+callbacks.accident={_target_: test_resume_accidents.Accident, hook: %s}"


@pytest.fixture
def run(gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 6 steps, with last.ckpt of step 6 and previous.ckpt of step 3."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert gptlab("train", *TINY, "run_dir=run").status == 0
    return workplace / "run"


def steps(run: Path) -> dict[str, int]:
    return {path.name: read(path)["global_step"] for path in (run / "checkpoints").glob("*t.ckpt")}


@pytest.mark.parametrize("hook", ["setup", "on_fit_start"])
def test_what_fails_before_all_is_restored_saves_nothing(gptlab: Command, run: Path, hook: str) -> None:
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    for _ in range(2):
        result = gptlab("train", "resume=run", "max_steps=9", ACCIDENT % hook)
        assert result.status == 1
        assert "a callback of one's own" in result.err
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    result = gptlab("train", "resume=run", "max_steps=9", "+callbacks.accident=null")
    assert result.status == 0, result.err
    assert summary(run)["steps"] == 9


def test_a_checkpoint_without_the_optimizer_is_none_to_go_on_from(gptlab: Command, run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").replace(run / "checkpoints" / "last.ckpt")
    result = gptlab("train", "resume=run", "max_steps=9")
    assert result.status == 0, result.err
    assert "last.ckpt is no checkpoint that a run can resume from: resuming from previous.ckpt, of step 3" in result.err


def test_the_one_before_is_taken_where_the_last_is_gone(gptlab: Command, run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()
    result = gptlab("train", "resume=run", "max_steps=9")
    assert result.status == 0, result.err
    assert "resuming from step 3 of 9" in result.out
    assert steps(run)["last.ckpt"] == 9


def test_a_damaged_one_is_reported_and_put_aside(gptlab: Command, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    refused = gptlab("train", "resume=run", "optimizer.lr=1")
    assert refused.status == 2
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    result = gptlab("train", "resume=run", "max_steps=9", "save_every=9")
    assert result.status == 0, result.err
    assert (
        "last.ckpt is truncated, damaged, or not a checkpoint (.ckpt): resuming from previous.ckpt, of step 3"
        in result.err
    )
    assert steps(run) == {"last.ckpt": 9, "best.ckpt": steps(run)["best.ckpt"]}
    assert read(run / "checkpoints" / "previous.ckpt")["global_step"] == 3
    assert (run / "checkpoints" / "last.ckpt.damaged").exists()
    assert list(run.rglob("*.tmp")) == []


def test_a_checkpoint_of_another_run_is_refused_by_name(gptlab: Command, run: Path, workplace: Path) -> None:
    assert gptlab("train", *TINY, "run_dir=other", "model.d_model=32").status == 0
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes((workplace / "other" / "checkpoints" / "last.ckpt").read_bytes())
    before = (run / "metrics.csv").read_bytes()
    result = gptlab("train", "resume=run", "max_steps=9")
    assert result.status == 2
    assert "is of another run: its model.d_model is 32, and 16 in config.yaml" in result.err
    assert (run / "metrics.csv").read_bytes() == before


def test_the_newest_run_is_the_one_begun_last_though_it_saved_nothing(gptlab: Command, workplace: Path) -> None:
    for name in ("a", "b"):
        assert gptlab("train", *TINY, f"run_dir=outputs/{name}").status == 0
    shutil.rmtree(workplace / "outputs" / "b" / "checkpoints")
    (workplace / "outputs" / "a" / "checkpoints" / "x.ckpt").symlink_to("nowhere")
    result = gptlab("train", "resume=last")
    assert result.status == 0, result.err
    assert "run directory outputs/b" in result.out
    assert summary(workplace / "outputs" / "b")["steps"] == 6


def test_early_stopping_saves_the_step_that_it_ends_with(gptlab: Command, run: Path) -> None:
    node = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, mode: max, patience: 1}"
    arguments = (*TINY, "run_dir=early", "max_steps=30", f"+callbacks.early_stopping={node}")
    assert gptlab("train", *arguments).status == 0
    assert read(run.with_name("early") / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert summary(run.with_name("early"))["status"] == "finished"


def test_a_disk_that_cannot_read_for_a_moment_costs_no_checkpoint(
    gptlab: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def fail(path: Path, *arguments: Any, **named: Any) -> IO[Any]:
        if path.suffix == ".ckpt":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_open(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        result = gptlab("train", "resume=run", "max_steps=9")
    assert result.status == 2
    assert "last.ckpt cannot be read: Input/output error" in result.err
    assert gptlab("train", "resume=run", "max_steps=9").status == 0
    assert steps(run)["last.ckpt"] == 9


def test_a_config_that_somebody_changed_is_refused(gptlab: Command, run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("weight_decay: 0.1", "weight_decay: 0.9"))
    result = gptlab("train", "resume=run", "max_steps=9")
    assert result.status == 2
    assert "its optimizer.weight_decay is 0.1, and 0.9 in config.yaml" in result.err


def test_a_run_without_validation_saves_its_last_step(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *TINY, "run_dir=run", "trainer.limit_val_batches=0", "max_steps=5")
    assert result.status == 0, result.err
    assert read(workplace / "run" / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_metrics_of_other_callbacks_are_left_out_of_metrics_csv(gptlab: Command, run: Path) -> None:
    columns = list(rows(run)[0])
    monitor = "+callbacks.rates={_target_: lightning.pytorch.callbacks.LearningRateMonitor}"
    result = gptlab("train", "resume=run", "max_steps=9", monitor)
    assert result.status == 0, result.err
    assert result.err.count("metrics.csv has no column for lr-AdamW/pg1, lr-AdamW/pg2") == 1
    assert [int(row["step"]) for row in rows(run)] == list(range(1, 10))
    assert list(rows(run)[0]) == columns
    assert curve(run, "lr-AdamW/pg1")[-3:] == [6, 7, 8], "Lightning's own count of steps goes on"


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_that_is_no_number_is_not_stepped_with(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    from gptlab.objective.next_token import NextToken

    original = NextToken.__call__
    calls = []

    def odd(self: NextToken, model: torch.nn.Module, batch: tuple) -> object:
        loss = original(self, model, batch)
        calls.append(model.training)
        if sum(calls) == 5 and model.training:
            loss.sum.data.fill_(float("nan"))
            return type(loss)(loss.sum * float("nan"), loss.count, loss.metrics)
        return loss

    monkeypatch.setattr(NextToken, "__call__", odd)
    result = gptlab("train", *TINY, "run_dir=run", f"on_nonfinite={policy}")
    if policy == "stop":
        assert result.status == 1
        assert "the loss is nan in step 5 (batch 4 of the run)" in result.err
        assert "resume=run on_nonfinite=skip" in result.out
        assert steps(workplace / "run")["last.ckpt"] == 3
    else:
        assert result.status == 0, result.err
        assert "step 5 is skipped: the loss is nan" in result.err
        assert summary(workplace / "run")["skipped_steps"] == 1
    for path in (workplace / "run" / "checkpoints").glob("*.ckpt"):
        assert all(tensor.isfinite().all() for tensor in read(path)["state_dict"].values())
