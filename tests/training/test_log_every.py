"""Between two logs the host reads nothing; what is logged, counted and saved is exact all the same."""

import math
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from gptlab.objective import Loss
from gptlab.objective.next_token import NextToken
from gptlab.training.log import quiet_lightning
from gptlab.training.loggers.metrics_csv import CSV
from gptlab.training.metrics import read_metrics
from gptlab.training.module import TrainingModule
from gptlab.training.muon import muon
from gptlab.training.stops import NonFiniteError
from tiny_training import adam, make_data, make_module

STEPS = 7
Optimizer = Callable[[torch.nn.Module], torch.optim.Optimizer]


def some_muon(model: torch.nn.Module) -> torch.optim.Optimizer:
    how = {"lr": 1e-2, "momentum": 0.9, "iterations": 3, "adamw_lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8}
    return muon(model, weight_decay=0.1, **how)  # type: ignore[arg-type]


def slow_adam(model: torch.nn.Module) -> torch.optim.Optimizer:
    """One that looks at no flag."""
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


class Poisoned(NextToken):
    """A loss that is `value` in some steps, counted from 0; its gradient is finite if `value` is infinite."""

    def __init__(self, steps: list[int], value: float) -> None:
        self.steps, self.value, self.step = steps, value, -1

    def __call__(self, model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> Loss:
        loss = super().__call__(model, batch)  # type: ignore[arg-type]
        if not model.training:
            return loss
        self.step += 1
        return Loss(loss.sum + self.value, loss.count, {}) if self.step in self.steps else loss


def train(place: Path, log_every: int, *, poison: Poisoned | None = None, trainer: dict | None = None, **how: object):
    quiet_lightning()
    module = make_module(log_every=log_every, steps=STEPS, **how)  # type: ignore[arg-type]
    module.objective = poison or module.objective
    runner = L.Trainer(
        **{"accelerator": "cpu", "max_steps": STEPS, "max_epochs": -1, "val_check_interval": 5},
        **{"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "log_every_n_steps": log_every},
        **{"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False},
        **(trainer or {}),
        logger=CSV(save_dir=str(place)),
        default_root_dir=str(place),
    )
    runner.fit(module, datamodule=make_data(steps=STEPS))
    return module, read_metrics(place / "metrics.csv")


def weights(module: TrainingModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.model.parameters()])


def at(metrics: dict[str, list[float]], name: str) -> dict[int, float]:
    steps = zip(metrics["step"], metrics[name], strict=True)
    return {int(step): value for step, value in steps if not math.isnan(value)}


@pytest.mark.parametrize("optimizer", [adam, some_muon, slow_adam])
def test_a_log_is_the_mean_of_its_steps_and_training_is_the_same(tmp_path: Path, optimizer: Optimizer) -> None:
    each, all_steps = train(tmp_path / "each", 1, optimizer=optimizer)
    third, some_steps = train(tmp_path / "third", 3, optimizer=optimizer)
    assert torch.equal(weights(third), weights(each))
    losses = list(at(all_steps, "train/loss").values())
    means = [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]]  # batches of this text are equally long
    assert at(some_steps, "train/loss") == pytest.approx(dict(zip((3, 6, 7), means, strict=True)), rel=1e-5)
    for name in ("tokens", "grad_norm", "lr"):
        assert at(some_steps, name) == {step: at(all_steps, name)[step] for step in (3, 6, 7)}
    assert at(some_steps, "val/loss") == at(all_steps, "val/loss")
    assert third.steps.recent == each.steps.recent
    assert third.n_tokens == each.n_tokens


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", [adam, some_muon, slow_adam])
def test_a_step_that_is_not_finite_is_skipped_between_logs_too(
    tmp_path: Path, optimizer: Optimizer, value: float
) -> None:
    how = {"optimizer": optimizer, "on_nonfinite": "skip"}
    each, _ = train(tmp_path / "each", 1, poison=Poisoned([1, 4], value), **how)
    third, metrics = train(tmp_path / "third", 3, poison=Poisoned([1, 4], value), **how)
    assert weights(each).isfinite().all()
    assert torch.equal(weights(third), weights(each))
    assert at(metrics, "skipped_steps") == {3: 1, 6: 2, 7: 2}
    assert np.isfinite(list(at(metrics, "train/loss").values())).all()


@pytest.mark.parametrize(("log_every", "bad", "done"), [(1, 1, 1), (3, 1, 2), (4, 4, 5)])
def test_the_run_stops_at_the_next_log_or_validation_and_names_the_step(
    tmp_path: Path, log_every: int, bad: int, done: int
) -> None:
    counted: list[int] = []

    class Count(L.Callback):
        def on_exception(self, trainer: L.Trainer, *_: object) -> None:
            counted.append(trainer.global_step)

    with pytest.raises(NonFiniteError, match=rf"the loss is nan in step {bad + 1} \(batch {bad} of the run\)"):
        train(tmp_path, log_every, poison=Poisoned([bad], math.nan), trainer={"callbacks": [Count()]})
    assert counted == [done]


def test_a_checkpoint_between_logs_has_all_steps(tmp_path: Path) -> None:
    class Save(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "four.ckpt")

    train(tmp_path, 3, trainer={"callbacks": [Save()]})
    ours = torch.load(tmp_path / "four.ckpt", weights_only=True)["gptlab"]
    assert (len(ours["recent"]), len(ours["unlogged"])) == (4, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("optimizer", [adam, some_muon])
def test_between_logs_nothing_waits_for_the_device(tmp_path: Path, optimizer: Optimizer) -> None:
    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            torch.cuda.set_sync_debug_mode("error" if trainer.global_step in (1, 2) else "default")

        def on_train_batch_end(self, *_: object) -> None:
            torch.cuda.set_sync_debug_mode("default")

    module, _ = train(tmp_path, 4, optimizer=optimizer, trainer={"accelerator": "cuda", "callbacks": [Watch()]})
    assert module.n_tokens > 0
