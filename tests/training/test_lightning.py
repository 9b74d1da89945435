"""The module under Lightning's own callbacks, loggers and Trainer."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from conftest import TINY, Result
from gptlab.training.stops import NonFiniteError
from tiny_training import CONTEXT, STEPS, make_data, make_module

Command = Callable[..., Result]


def own_trainer(directory: Path, **settings: object) -> L.Trainer:
    """As a person makes it who has read Lightning's manual only."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", default_root_dir=directory, **{**quiet, **settings})  # type: ignore[arg-type]


def test_every_logger_gets_the_steps_done_and_callbacks_the_metrics(tmp_path: Path) -> None:
    logger, stop = CSVLogger(str(tmp_path)), EarlyStopping(monitor="val/loss", patience=100)
    best = ModelCheckpoint(dirpath=tmp_path, filename="{step}", monitor="val/loss")
    lowest = ModelCheckpoint(dirpath=tmp_path, filename="of-{step}", monitor="train/loss", every_n_train_steps=1)
    settings = {"max_steps": STEPS, "val_check_interval": 2, "check_val_every_n_epoch": None, "log_every_n_steps": 1}
    trainer = own_trainer(tmp_path, logger=logger, callbacks=[stop, best, lowest, LearningRateMonitor()], **settings)
    trainer.fit(make_module(rows=2), datamodule=make_data(rows=2))
    with Path(logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "2", "3", "4", "5"]
    assert [row["step"] for row in rows if row["val/loss"]] == ["2", "4", "5"]
    assert max(float(row["tokens"] or 0) for row in rows) == 5 * 6 * CONTEXT
    assert float(trainer.callback_metrics["val/loss"]) == stop.best_score == best.best_model_score
    assert Path(best.best_model_path).name == "step=5.ckpt"
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    assert float(trainer.progress_bar_metrics["train/loss"]) == losses[-1]
    assert float(lowest.best_model_score or 0) == min(losses)
    assert Path(lowest.best_model_path).name == f"of-step={1 + losses.index(min(losses))}.ckpt"
    assert float(trainer.logged_metrics["train/loss"]) == losses[-1]
    assert {"lr", "grad_norm", "tokens_per_second"} <= trainer.callback_metrics.keys()


def test_a_run_goes_on_from_a_checkpoint_of_model_checkpoint(tmp_path: Path) -> None:
    whole, half = make_module(dropout=0.3), make_module(dropout=0.3)
    own_trainer(tmp_path, max_steps=STEPS, logger=False).fit(whole, datamodule=make_data())
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, every_n_train_steps=3)
    own_trainer(tmp_path, max_steps=3, logger=False, callbacks=[save]).fit(half, datamodule=make_data())
    again, trainer = make_module(dropout=0.3), own_trainer(tmp_path, max_steps=STEPS, logger=False)
    trainer.fit(again, datamodule=make_data(), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == STEPS
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_validate_test_and_predict_return_what_they_are_asked_for(tmp_path: Path) -> None:
    module, data, trainer = make_module(), make_data(), own_trainer(tmp_path, logger=False)
    (validated,) = trainer.validate(module, datamodule=data, verbose=False)
    assert set(validated) == {"val/loss", "val/perplexity", "val/bits_per_byte"}
    (tested,) = trainer.test(module, dataloaders=data.val_dataloader(), verbose=False)
    assert set(tested) == {"test/loss", "test/perplexity"}
    assert tested["test/loss"] == pytest.approx(validated["val/loss"])
    logits = trainer.predict(module, dataloaders=data.val_dataloader())
    assert logits is not None
    assert isinstance(logits[0], Tensor)
    assert logits[0].shape[1:] == (CONTEXT, 20)


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"max_steps": 3, "limit_val_batches": 2}])
def test_a_trainer_of_one_s_own(tmp_path: Path, settings: dict[str, object]) -> None:
    trainer = own_trainer(tmp_path, logger=False, **settings)
    trainer.fit(make_module(), datamodule=make_data())
    assert trainer.global_step == settings.get("max_steps", 1)
    assert "val/loss" in trainer.callback_metrics


def test_a_sanity_check_is_no_validation(tmp_path: Path) -> None:
    module = make_module()
    module.validated_step = -1
    own_trainer(tmp_path, logger=False, max_steps=0, num_sanity_val_steps=1).fit(module, datamodule=make_data())
    assert module.validated_step == -1
    assert module.metrics == {}


def test_the_steps_before_a_callback_ends_the_run_are_logged_and_looked_at(tmp_path: Path) -> None:
    logger, module = CSVLogger(str(tmp_path)), make_module(log_every=10)
    trainer = own_trainer(tmp_path, logger=logger, limit_train_batches=3, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, datamodule=make_data())
    with Path(logger.log_dir, "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["train/loss"]] == ["3"]

    broken = make_module(log_every=10)
    with torch.no_grad():
        broken.model.head.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError):
        own_trainer(tmp_path, logger=False, limit_train_batches=3, max_epochs=1, limit_val_batches=0).fit(
            broken, datamodule=make_data()
        )


def test_the_objective_says_what_is_logged_and_what_is_best(gptlab: Command, workplace: Path) -> None:
    arguments = ("objective={_target_: tiny_training.Accuracy}", "data.val_fraction=0.3872")
    result = gptlab("train", *TINY, "run_dir=run", *arguments, "validate_every=1", "optimizer.lr=0.1")
    assert result.status == 0, result.err
    with (workplace / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = torch.load(workplace / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    accuracies = [float(row["val/accuracy"]) for row in rows]
    assert best["global_step"] == 1 + accuracies.index(max(accuracies))
    assert all(row["train/accuracy"] for row in rows)
    assert not any(row["val/perplexity"] for row in rows)


def test_lightning_s_callbacks_and_loggers_by_yaml(gptlab: Command, workplace: Path) -> None:
    place = "lightning.pytorch"
    further = (
        f"+callbacks.keep={{_target_: {place}.callbacks.ModelCheckpoint, dirpath: kept, monitor: val/loss}}",
        f"+callbacks.stop={{_target_: {place}.callbacks.EarlyStopping, monitor: val/loss}}",
        f"+callbacks.rates={{_target_: {place}.callbacks.LearningRateMonitor}}",
        f"+callbacks.device={{_target_: {place}.callbacks.DeviceStatsMonitor}}",
        f"+logger.more={{_target_: {place}.loggers.CSVLogger, save_dir: csv}}",
    )
    result = gptlab("train", *TINY, "run_dir=run", *further)
    assert result.status == 0, result.err
    assert len(list((workplace / "kept").glob("*step=*.ckpt"))) == 1
    with next((workplace / "csv").rglob("metrics.csv")).open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert len(list((workplace / "run" / "checkpoints").iterdir())) == 3
    states = torch.load(workplace / "run" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (kept,) = (state for name, state in states.items() if name.startswith("ModelCheckpoint"))
    assert "step=6" in kept["best_model_path"], "what others keep of the last validation is saved with it"


def test_a_prompt_that_cannot_be_encoded_leaves_no_directory(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *TINY, "callbacks.samples.prompt=Ж")
    assert result.status == 2
    assert result.err.startswith("error: callbacks.samples.prompt=Ж")
    assert not (workplace / "outputs").exists()
