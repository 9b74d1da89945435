"""What could make a resume lose what it was to resume from."""

import shutil
from collections.abc import Callable
from pathlib import Path

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
def run(workplace: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 6 steps, with last.ckpt of step 6 and previous.ckpt of step 3."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return Path(shutil.copytree(tiny_run, workplace / "run"))


def steps(run: Path) -> dict[str, int]:
    return {path.name: read(path)["global_step"] for path in (run / "checkpoints").glob("*t.ckpt")}


@pytest.mark.parametrize("hook", ["setup", "on_fit_start"])
def test_what_fails_before_all_is_restored_saves_nothing(gptlab: Command, run: Path, hook: str) -> None:
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    result = gptlab("train", "resume=run", "max_steps=9", ACCIDENT % hook)
    assert result.status == 1
    assert "a callback of one's own" in result.err
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before


def test_previous_ckpt_is_taken_if_the_last_is_damaged(gptlab: Command, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    assert gptlab("train", "resume=run", "optimizer.lr=1").status == 2
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    result = gptlab("train", "resume=run", "max_steps=9", "save_every=9")
    assert result.status == 0, result.err
    damage = "last.ckpt is truncated, damaged, or not a checkpoint (.ckpt)"
    assert f"{damage}: resuming from previous.ckpt, of step 3" in result.err
    assert steps(run)["last.ckpt"] == 9
    assert read(run / "checkpoints" / "previous.ckpt")["global_step"] == 3
    assert (run / "checkpoints" / "last.ckpt.damaged").exists()


def test_previous_ckpt_is_taken_if_the_last_has_no_optimizer(gptlab: Command, run: Path) -> None:
    (run / "checkpoints" / "best.ckpt").replace(run / "checkpoints" / "last.ckpt")
    result = gptlab("train", "resume=run", "max_steps=7")
    assert result.status == 0, result.err
    assert "last.ckpt is no checkpoint that a run can resume from: resuming from previous.ckpt, of step 3" in result.err


def test_a_checkpoint_of_another_run_and_a_changed_configuration_are_refused(gptlab: Command, run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("weight_decay: 0.1", "weight_decay: 0.9"))
    before = (run / "metrics.csv").read_bytes()
    result = gptlab("train", "resume=run", "max_steps=9")
    assert result.status == 2
    assert "is of another run: its optimizer.weight_decay is 0.1, and 0.9 in config.yaml" in result.err
    assert (run / "metrics.csv").read_bytes() == before


def test_the_newest_run_is_the_one_begun_last_even_if_it_saved_nothing(gptlab: Command, tiny_run: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(tiny_run, f"outputs/{name}", copy_function=shutil.copyfile)
    shutil.rmtree("outputs/b/checkpoints")
    result = gptlab("train", "resume=last")
    assert result.status == 0, result.err
    assert "run directory outputs/b" in result.out
    assert summary(Path("outputs/b"))["steps"] == 6


def test_early_stopping_saves_the_step_that_it_ends_with(gptlab: Command, workplace: Path) -> None:
    node = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, mode: max, patience: 1}"
    arguments = (*TINY, "run_dir=early", "max_steps=30", "save_every=30", f"+callbacks.early_stopping={node}")
    assert gptlab("train", *arguments).status == 0
    assert steps(workplace / "early")["last.ckpt"] == 6
    assert summary(workplace / "early")["status"] == "finished"


def test_metrics_of_other_callbacks_are_left_out_of_metrics_csv(gptlab: Command, run: Path) -> None:
    columns = list(rows(run)[0])
    monitor = "+callbacks.rates={_target_: lightning.pytorch.callbacks.LearningRateMonitor}"
    result = gptlab("train", "resume=run", "max_steps=9", "trainer.limit_val_batches=0", monitor)
    assert result.status == 0, result.err
    assert [int(row["step"]) for row in rows(run)] == list(range(1, 10))
    assert list(rows(run)[0]) == columns
    assert curve(run, "lr-AdamW/pg1")[-3:] == [6, 7, 8], "Lightning's own count of steps continues"
    assert steps(run)["last.ckpt"] == 9, "a run without validation saves its last step too"


@pytest.mark.parametrize("policy", ["stop", "skip", "skip all"])
def test_a_loss_that_is_no_number_is_not_stepped_with(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    from gptlab.objective.next_token import NextToken

    original = NextToken.__call__
    calls = []

    def odd(self: NextToken, model: torch.nn.Module, batch: tuple) -> object:
        loss = original(self, model, batch)
        calls.append(model.training and not model.head.weight.is_meta)  # operations are counted without weights
        if calls[-1] and (sum(calls) == 5 or (policy == "skip all" and sum(calls) > 5)):
            return type(loss)(loss.sum * float("nan"), loss.count, loss.metrics)
        return loss

    monkeypatch.setattr(NextToken, "__call__", odd)
    result = gptlab("train", *TINY, "run_dir=run", f"on_nonfinite={policy.partition(' ')[0]}", "max_steps=20")
    if policy == "skip all":
        assert result.status == 1
        assert "the 10 steps before it were skipped too" in result.err
        assert "on_nonfinite=skip\n" not in result.out, "that has just failed"
        assert steps(workplace / "run")["last.ckpt"] == 3, "nothing is saved while steps are skipped"
    elif policy == "stop":
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
