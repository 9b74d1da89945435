"""One Lightning batch is one optimizer step, exact however it is cut."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision

from gptlab.data.windows import WindowDataset
from gptlab.objective.base import IGNORED
from gptlab.training.log import quiet_lightning
from gptlab.training.loggers.metrics_csv import CSV
from gptlab.training.metrics import read_metrics
from gptlab.training.module import TrainingModule
from tiny_training import BATCH, CONTEXT, STEPS, TOKENS, make_data, make_module


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Moves by exactly the clipped gradient, which Adam hides: it does not care for the gradient's size."""
    return torch.optim.SGD(model.parameters(), lr=1.0)


def fused_sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0, fused=True)


def train(
    directory: Path,
    *,
    plugins: list[Any] | None = None,
    rows: int = BATCH,
    steps: int = STEPS,
    seed: int = 0,
    **how: Any,
) -> tuple[TrainingModule, dict[str, list[float]]]:
    quiet_lightning()
    module = make_module(rows=rows, steps=steps, seed=seed, **how)
    trainer = L.Trainer(
        **{"accelerator": "cpu", "max_steps": steps, "max_epochs": -1, "val_check_interval": 2},
        **{"check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "log_every_n_steps": 1},
        **{"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False},
        plugins=plugins,
        logger=CSV(save_dir=str(directory)),
        default_root_dir=str(directory),
    )
    trainer.fit(module, datamodule=make_data(rows=rows, steps=steps, seed=seed))
    return module, read_metrics(directory / "metrics.csv")


def weights(module: TrainingModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.model.parameters()])


@pytest.mark.parametrize("rows", [1, 2])
def test_micro_batches_change_nothing(tmp_path: Path, rows: int) -> None:
    whole, metrics = train(tmp_path / "whole")
    cut, cut_metrics = train(tmp_path / "cut", rows=rows)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cut_metrics["train/loss"], metrics["train/loss"], rtol=1e-5)
    np.testing.assert_allclose(cut_metrics["grad_norm"], metrics["grad_norm"], rtol=1e-4)


def test_validation_is_the_mean_over_every_token_of_unequal_batches(tmp_path: Path) -> None:
    module, metrics = train(tmp_path, rows=3)
    n_train = int(len(TOKENS) * 0.9)
    val = torch.tensor(TOKENS[n_train:].astype(np.int64))
    assert (len(val) - 1) % (3 * CONTEXT) != 0, "the last batch is to be a smaller one"
    losses: list[float] = []
    model = module.model.eval()
    for start in range(0, len(val) - 1, CONTEXT):
        targets = val[start + 1 : start + 1 + CONTEXT]
        first = min(start, len(val) - 1 - CONTEXT)  # the last window is moved back, so that it is full
        with torch.no_grad():
            logits = model(val[None, first : first + CONTEXT])[0, -len(targets) :]
        losses += F.cross_entropy(logits, targets, reduction="none").tolist()
    assert len(losses) == len(val) - 1
    mean = sum(losses) / len(losses)
    assert metrics["val/loss"][-1] == pytest.approx(mean, rel=1e-5)
    assert metrics["val/perplexity"][-1] == pytest.approx(math.exp(mean), rel=1e-5)
    assert metrics["val/bits_per_byte"][-1] == pytest.approx(mean / math.log(2), rel=1e-5)
    assert module.steps.recent_loss == pytest.approx(np.mean(metrics["train/loss"]), rel=1e-5)


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("optimizer", [sgd, fused_sgd])
def test_a_clipped_step_is_as_long_as_the_limit(
    tmp_path: Path, scale: float | None, optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer]
) -> None:
    """Also under fp16, whose gradients are scaled: a fused optimizer unscales in its own step, after the clipping."""

    def plugins() -> list[Any] | None:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        return [MixedPrecision("16-mixed", "cpu", scaler=scaler)] if scaler else None

    start, _ = train(tmp_path / "start", steps=1, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0))
    clipped, metrics = train(tmp_path / "clipped", steps=1, grad_clip=0.1, optimizer=optimizer, plugins=plugins())
    free, _ = train(tmp_path / "free", steps=1, grad_clip=None, optimizer=optimizer, plugins=plugins())
    assert metrics["grad_norm"][0] > 0.2, "the norm from before the clipping is logged"
    assert (weights(clipped) - weights(start)).norm().item() == pytest.approx(0.1, rel=1e-3)
    assert (weights(free) - weights(start)).norm().item() == pytest.approx(metrics["grad_norm"][0], rel=1e-3)


def test_fp16_trains_as_fp32_does(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    half, metrics = train(tmp_path / "half", plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)], grad_clip=0.1)
    single, expected = train(tmp_path / "single", grad_clip=0.1)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=0.02)
    assert (weights(half) - weights(single)).norm() < 0.05 * weights(single).norm()


def test_dropout_of_a_step_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "first", dropout=0.3)
    torch.rand(17)
    again, _ = train(tmp_path / "again", dropout=0.3)
    assert torch.equal(weights(first), weights(again))
    other, _ = train(tmp_path / "other", dropout=0.3, seed=1)
    assert not torch.equal(weights(first), weights(other))


def test_a_step_with_nothing_to_learn_is_said_and_divides_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_targets(_: object, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(indices), CONTEXT, dtype=torch.int64), torch.full((len(indices), CONTEXT), IGNORED)

    monkeypatch.setattr(WindowDataset, "batch", without_targets)
    with pytest.raises(ValueError, match="the batch of step 1 has nothing to learn: none of its targets counts"):
        train(tmp_path)
