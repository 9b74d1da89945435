"""The LightningModule: one Lightning batch is one rank's share of one optimizer step.

Optimization is manual. The loss of a step is exact for any micro-batches and ranks, because each summed loss is divided
by the global count of target tokens.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from platformdirs import user_cache_path
from torch import Tensor

from gptlab.data.base import PreparedData
from gptlab.model import LanguageModel
from gptlab.objective import Batch, Loss, Objective
from gptlab.training import known_answer, state, stepping
from gptlab.training.budget import Budget
from gptlab.training.clock import Clock
from gptlab.training.ranks import data_parallel
from gptlab.training.stops import Interrupted, NonFiniteGuard
from gptlab.training.sums import Step, TrainingSums, means, sums

log = logging.getLogger("gptlab")


class TrainingModule(L.LightningModule):
    """Trains a model on an objective.

    Args:
        optimizer: called with the model, returns its optimizer.
        schedule: called with the steps done, returns a factor on the learning rate.
        data: its tokenizer, fingerprint and prompt are stored in checkpoints.
        config: stored in checkpoints.
        seed: dropout of step k depends on (seed, k, rank) only.
        micro_batch_size: sequences that this device holds at once.
        max_steps: length of the run; a Trainer with fewer max_steps ends it earlier.
        max_minutes: training time after which it ends; the schedule follows the share that is used. None for no end.
        grad_clip: largest gradient norm; None for no clipping.
        on_nonfinite: "stop" or "skip", for a step whose loss or gradient norm is not finite.
        log_every: steps from one log to the next. Between two logs one rank alone does not wait for its device.

    Attributes:
        metrics: of the last step and the last validation.
        unit: what the loss is averaged over, "token" or the objective's own.
        summary: what callbacks add to summary.json.
        n_tokens, n_inputs: target and input tokens so far, over all ranks.
        validated_step: steps done at the last validation; -1 if the weights are to be validated first.
        stop_requested: set by a signal handler: the run stops after the current step.
        between_steps: whether weights, logs and the number of steps agree, so that a checkpoint can be saved.
        base_fingerprint: of the weights under an adapter, which do not train and are not saved; None without one.
    """

    base_fingerprint: str | None = None

    def __init__(
        self,
        *,
        model: LanguageModel,
        objective: Objective,
        optimizer: Callable[[LanguageModel], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        data: PreparedData,
        config: dict[str, Any],
        seed: int,
        micro_batch_size: int,
        max_steps: int,
        grad_clip: float | None,
        on_nonfinite: str,
        log_every: int,
        max_minutes: float | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model: LanguageModel = model
        self.objective, self.data, self.config = objective, data, config
        self.guard = NonFiniteGuard(on_nonfinite)
        self.steps = TrainingSums(self.guard, objective.metrics, self.sum_over_ranks)
        self.clock = Clock()
        self.metrics: dict[str, float] = {}
        self.unit: str = getattr(objective, "unit", "token")
        self.summary: dict[str, Any] = {}
        self.n_tokens = self.n_inputs = self.validated_step = 0
        self.stop_requested = self.between_steps = False

        self._make_optimizer, self._schedule, self._grad_clip = optimizer, schedule, grad_clip
        self._seed, self.micro_batch_size = seed, micro_batch_size
        self._log_every, self._budget = log_every, Budget(max_steps, max_minutes)
        self._n_targets: int | None = None  # of the current step
        self._losses: list[Loss] = []  # of the current step, validation or test

    def configure_model(self) -> None:
        """Shard the model if the strategy does that."""
        if hasattr(self.trainer.strategy, "shard"):
            self.trainer.strategy.shard(self.model)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self._weights = list(self.model.parameters())  # to walk through the model takes a while
        return self._make_optimizer(self.model)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count the targets of a step before the batch is on the device, for which the count would have to wait."""
        if self.trainer.training:
            self._n_targets = int(self.objective.count(batch))
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """One exchange tells all ranks how many targets the step has, and whether a signal has come to any of them."""
        self.between_steps = True  # callbacks and loggers have seen the last step
        if self._n_targets is None:  # the user's DataModule has such a hook of its own
            self._n_targets = int(self.objective.count(batch))
        counts = torch.tensor([self._n_targets, self.stop_requested, self.clock.trained], dtype=torch.float64)
        n_targets, n_stops, seconds = self.sum_over_ranks(counts).tolist()
        self._n_targets = int(n_targets)
        if n_stops:
            self._stop()
        self._budget.spend(self.trainer.global_step, seconds / data_parallel(self.trainer)[1])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimizer step. The batch is this rank's share of it."""
        step = self.trainer.global_step  # steps done before this one
        rank, n_ranks = data_parallel(self.trainer)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        self.clock.resume()
        stepping.seed_step(self._seed, step, rank, self.device)
        stepping.set_lr(optimizer, self._budget.lr_factor(self._schedule, step))

        n_targets, self._n_targets = self._n_targets, None
        if not n_targets:
            raise ValueError(f"the batch of step {step + 1} has nothing to learn: none of its targets counts")
        scale = n_ranks / n_targets  # DDP averages over ranks; the step needs a sum
        micro_batches, self._losses = stepping.split(batch, self.micro_batch_size), []
        for number, micro_batch in enumerate(micro_batches, start=1):
            with stepping.gradient_sync(self.trainer.strategy, now=number == len(micro_batches)):
                loss = self.objective(self.model, micro_batch)
                self.manual_backward(loss.sum * scale)
            self._losses.append(replace(loss, sum=loss.sum.detach()))
        optimizer.step()  # calls on_before_optimizer_step
        optimizer.zero_grad()

        self.n_tokens, self.n_inputs = self.n_tokens + n_targets, self.n_inputs + batch[0].numel() * n_ranks
        self.clock.end_step(n_targets)
        self.trainer.callback_metrics.pop("step", None)  # of a validation; without it, callbacks take global_step
        if self._is_logged(step + 1):
            self._log_steps()
        self.trainer.should_stop |= self.trainer.global_step >= self._total_steps  # after one more validation

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure and clip the gradient; skip the step if it must be, on the device if nobody reads it now."""
        self.between_steps = False  # a failure before this line leaves the weights of the last step
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # fp16 only
        scale = stepping.gradient_scale(optimizer, scaler)
        limit = math.inf if self._grad_clip is None else self._grad_clip * scale
        norm = stepping.clip(self._weights, limit) / scale
        step = Step(self.trainer.global_step, self._losses, norm, overflows=scaler is not None)
        self.steps.add(step)
        if stepping.can_skip_by_flag(optimizer, scaler) and not self._is_logged(step.number + 1):
            stepping.skip_if(self.trainer.strategy.reduce(step.is_bad(), reduce_op="max"), optimizer)
        else:
            stepping.skip_if(None, optimizer)
            if not self.steps.read():
                stepping.drop_gradient(optimizer, scaler)

    def catch_up(self) -> None:
        """Read what steps have left on the device, before a validation or a save. Raises NonFiniteError."""
        self.steps.read()
        self.clock.read()

    def on_train_end(self) -> None:
        """Log the steps since the last log, if a callback has ended the run. Raises NonFiniteError."""
        self.catch_up()
        if self.steps.unlogged:
            self._log_steps()

    def _log_steps(self) -> None:
        self.clock.read()
        metrics = means("train", self.steps.to_log(), self.objective.metrics)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        metrics |= {"lr": lr, "grad_norm": self.steps.gradient_norm, "tokens": self.n_tokens}
        metrics |= {"tokens_per_second": self.clock.recent_tokens_per_second, "seconds": self.clock.seconds}
        metrics |= {"skipped_steps": self.guard.n_skipped} if self.guard.skips else {}
        self.metrics.update(metrics)
        stepping.log(self.trainer, metrics)

    def _is_logged(self, step: int) -> bool:
        """Whether there is a log after this number of steps. The Trainer's log_every_n_steps is for other callbacks."""
        return step % self._log_every == 0 or step >= self._total_steps

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the loss; its mean is taken at the end. A rank without examples gets a row that does not count."""
        if batch_idx == 0:
            self._losses = []
        self._losses.append(self.objective(self.model, batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._stop_if_requested()
        self.test_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:  # of a user's own Trainer: a few batches are no validation
            return
        metrics = self._evaluated("val")
        if self.data.val_bytes_per_token is not None:
            metrics["val/bits_per_byte"] = metrics["val/loss"] / math.log(2) / self.data.val_bytes_per_token
        self._log(metrics)
        self._log(known_answer.compare(self, metrics["val/loss"]))
        self.validated_step = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        self._log(self._evaluated("test"))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits of a batch's inputs, (B, T, V); of a classifier's texts, (B, n_labels)."""
        return self.model(batch[0]) if self.model.generates else self.model(batch[0], lengths=batch[1])

    def _evaluated(self, split: str) -> dict[str, float]:
        """The mean metrics of a validation or test, and what the objective derives from the mean loss."""
        rows = self.sum_over_ranks(sums([self._losses], self.objective.metrics)).tolist()
        found = means(split, rows, self.objective.metrics)
        derived = self.objective.summary(found[f"{split}/loss"])
        return found | {f"{split}/{name}": value for name, value in derived.items()}

    def sum_over_ranks(self, values: Tensor) -> Tensor:
        if data_parallel(self.trainer)[1] == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device, torch.float64), reduce_op="sum")

    @property
    def metric_names(self) -> list[str]:
        """Names of the scores that training and validation log."""
        both = [f"{split}/{name}" for split in ("train", "val") for name in ("loss", *self.objective.metrics)]
        bits_per_byte = ["val/bits_per_byte"] if self.data.val_bytes_per_token is not None else []
        derived = [f"val/{name}" for name in self.objective.summary(1.0)]  # for its names
        answer = [] if self.data.entropy_rate is None else known_answer.METRICS
        return [*both, *derived, *bits_per_byte, *answer, *(["skipped_steps"] if self.guard.skips else [])]

    def _log(self, metrics: dict[str, float]) -> None:
        """Log what is no training step to callbacks and loggers, which take "step" for the optimizer steps done."""
        self.metrics.update(metrics)
        step = {"step": float(self.trainer.global_step)} if self.trainer.state.fn == "fit" else {}
        for name, value in (metrics | step).items():
            exact = torch.tensor(value, dtype=torch.float64)  # self.log makes float32 of a float
            self.log(name, exact, prog_bar=name.endswith("/loss"), batch_size=1)

    def on_fit_start(self) -> None:
        if hasattr(self.objective, "prepare"):  # what it measures before the first step
            with self.trainer.precision_plugin.forward_context():
                self.objective.prepare(self.model, self.data, user_cache_path("gptlab") / "references")

    def on_train_start(self) -> None:
        """Validate weights that were trained elsewhere, or make up for a validation that an earlier session missed."""
        if self.validation_pending:
            self.trainer.validating = True
            self.trainer.fit_loop.epoch_loop.val_loop.run()
            self.trainer.training = True

    def on_validation_start(self) -> None:
        self.catch_up()  # before anything can be saved
        self.between_steps = True
        self._stop_if_requested()
        self.clock.pause()

    def _stop_if_requested(self) -> None:
        """Raises Interrupted if a signal has come to any rank."""
        if self.trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False):
            self._stop()

    def _stop(self) -> None:
        log.info("stopping at step %d: saving (press Ctrl-C again to leave at once)", self.trainer.global_step)
        raise Interrupted

    @property
    def expected_steps(self) -> int:
        """The length of the run in steps; under a budget of time, at the speed so far."""
        return min(self._total_steps, self._budget.expected_steps(self.trainer.global_step))

    @property
    def _total_steps(self) -> int:
        most, n_steps = self.trainer.max_steps, self._budget.n_steps
        return min(n_steps, most) if most > 0 else n_steps

    @property
    def validation_pending(self) -> bool:
        """Whether the last step is followed by a validation that has not been made yet."""
        step, interval = self.trainer.global_step, self.trainer.val_check_interval
        is_due = step >= self._total_steps or (isinstance(interval, int) and step % interval == 0)
        return bool(self.trainer.enable_validation and is_due and self.validated_step != step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.catch_up()
        state.save(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state.load(self, checkpoint)
