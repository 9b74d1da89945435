"""The LightningModule: one Lightning batch is one rank's share of one optimizer step.

Optimization is manual, so that a step is a step in every counter, and the loss of a step is exact however its tokens
are spread over micro-batches and ranks: each micro-batch's summed loss is divided by the step's global count of tokens.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from gptlab.objective import Batch, Loss, Objective
from gptlab.tokenizer import Tokenizer
from gptlab.training.clock import Clock
from gptlab.training.nonfinite import NonFiniteGuard
from gptlab.training.seeds import seed_step
from gptlab.training.stops import Interrupted

log = logging.getLogger("gptlab")

RECENT_STEPS = 100  # what summary.json calls train_loss is the mean over the tokens of so many last steps


class TrainingModule(L.LightningModule):
    """Trains a model on an objective.

    Args:
        model: what is trained.
        objective: its loss.
        optimizer: makes the optimizer from the model.
        schedule: the factor on the learning rate, from the number of steps done.
        tokenizer: goes into the checkpoints.
        config: the resolved configuration, plain data; goes into the checkpoints.
        text_fingerprint: of the text that is trained on; goes into the checkpoints.
        seed: dropout of step k depends on (seed, k, rank) alone.
        micro_batch_size: sequences that this device holds at once.
        max_steps: length of the run.
        grad_clip: the norm to which gradients are cut; None cuts nothing.
        on_nonfinite: what happens at a step whose loss or gradient norm is no number: "stop" ends the run, "skip"
            leaves the step out, and ends it after too many in a row.
        val_bytes_per_token: of the validation text, for bits per byte; None where the tokenizer loses bytes.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        tokenizer: Tokenizer,
        config: dict[str, Any],
        text_fingerprint: str,
        seed: int,
        micro_batch_size: int,
        max_steps: int,
        grad_clip: float | None,
        on_nonfinite: str,
        val_bytes_per_token: float | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.objective = objective
        self.tokenizer = tokenizer
        self.config = config
        self.text_fingerprint = text_fingerprint
        self._make_optimizer = optimizer
        self._schedule = schedule
        self._seed = seed
        self._micro_batch_size = micro_batch_size
        self._max_steps = max_steps
        self._grad_clip = grad_clip
        self.guard = NonFiniteGuard(on_nonfinite)
        self.val_bytes_per_token = val_bytes_per_token

        self.stop_requested = False  # set by the signal handler, obeyed at the end of the step, and in validation
        self.weights_are_whole = True  # but for while the optimizer writes them
        self._all_stop = False  # whether a signal has come to any rank
        self._validated_step = 0
        self._loss = math.nan  # of the step under way, nats per token
        self.metrics: dict[str, float] = {}  # of the last step and the last validation
        self._grad_norm = math.nan
        self._tokens = 0
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_STEPS)  # (summed loss, tokens) of a step
        self.clock = Clock()

    # -- one step --------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        step = self.trainer.global_step  # optimizer steps done before this one
        self.clock.start_step()
        seed_step(self._seed, step, self.global_rank, self.device)
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        lr = self._set_lr(optimizer, step)

        n_tokens = int(self._sum_over_ranks(self.objective.count(batch))[0])
        losses = []
        micro_batches = list(_split(batch, self._micro_batch_size))
        for number, micro_batch in enumerate(micro_batches, start=1):
            with self._gradient_sync(now=number == len(micro_batches)):
                loss = self.objective(self.model, micro_batch)
                # DDP averages over ranks what is to be summed: hence the factor
                self.manual_backward(loss.sum * (self.trainer.world_size / n_tokens))
            losses.append(replace(loss, sum=loss.sum.detach()))
        n_stop, loss_sum, *extras = self._sum_over_ranks(float(self.stop_requested), *self._sums(losses))
        self._loss = loss_sum / n_tokens
        optimizer.step()  # on the way: on_before_optimizer_step
        self.weights_are_whole = True
        optimizer.zero_grad()

        self._all_stop = n_stop > 0
        self._tokens += n_tokens
        if math.isfinite(self._loss):
            self._recent.append((loss_sum, n_tokens))
        self.clock.end_step(n_tokens)
        self._log(
            step + 1,
            {
                "train/loss": self._loss,
                **{
                    f"train/{name}": extra / n_tokens
                    for name, extra in zip(self.objective.metrics, extras, strict=True)
                },
                "lr": lr,
                "grad_norm": self._grad_norm,
                "tokens": self._tokens,
                "tokens_per_second": self.clock.recent_tokens_per_second,
                "seconds": self.clock.seconds,
                **({"skipped_steps": self.guard.n_skipped} if self.guard.n_skipped else {}),
            },
        )
        if step + 1 >= self._max_steps:
            self.trainer.should_stop = True  # Lightning validates once more, then ends

    def on_train_batch_end(self, *_: Any) -> None:
        """Callbacks have seen the step. Raises Interrupted where a signal has come to any rank."""
        if self._all_stop:
            self._interrupt()

    def _interrupt(self) -> NoReturn:
        log.info("stopping at step %d: saving (Ctrl-C again leaves at once)", self.trainer.global_step)
        raise Interrupted

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure and clip the gradient, which may be scaled still under fp16; look whether all is a number."""
        scale = self._gradient_scale(optimizer)
        parameters = list(self.model.parameters())
        limit = math.inf if self._grad_clip is None else self._grad_clip * scale
        self._grad_norm = float(clip_grad_norm_(parameters, limit)) / scale
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        norm = 0.0 if has_scaler else self._grad_norm  # a scaler makes gradients overflow, and leaves such steps out
        if not self.guard.lets_pass(self.trainer.global_step, loss=self._loss, gradient_norm=norm):
            for parameter in parameters:  # a step without gradients changes nothing
                parameter.grad = parameter.grad.fill_(math.inf) if has_scaler and parameter.grad is not None else None
        self.weights_are_whole = False

    def _gradient_scale(self, optimizer: torch.optim.Optimizer) -> float:
        """By how much the gradients are too large: a fused optimizer unscales in its own step, after this hook."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is None or not getattr(optimizer, "_step_supports_amp_scaling", False):
            return 1.0
        return float(scaler.get_scale())

    def _set_lr(self, optimizer: LightningOptimizer, step: int) -> float:
        factor = self._schedule(step)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor
        return optimizer.param_groups[0]["lr"]

    def _gradient_sync(self, *, now: bool) -> AbstractContextManager:
        """Hold DDP's all-reduce back until the last micro-batch."""
        block = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        return nullcontext() if now else block()

    def _sum_over_ranks(self, *values: float | Tensor) -> list[float]:
        if self.trainer.world_size == 1:
            return [float(value) for value in values]
        local = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        return self.trainer.strategy.reduce(local, reduce_op="sum").tolist()

    # -- validation ------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.clock.pause()
        self._val_losses: list[Loss] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self._sum_over_ranks(float(self.stop_requested))[0] > 0:
            self._interrupt()
        if len(batch[0]) > 0:  # else the other ranks have the rest
            self._val_losses.append(self.objective(self.model, batch))

    def on_validation_epoch_end(self) -> None:
        """Perplexity is taken once, of the mean over all tokens."""
        count = sum(int(loss.count) for loss in self._val_losses)
        n_tokens, loss_sum, *extras = self._sum_over_ranks(count, *self._sums(self._val_losses))
        loss = loss_sum / n_tokens
        metrics = {
            "val/loss": loss,
            "val/perplexity": math.exp(min(loss, 700.0)),  # exp(710) is no float any more
            **{f"val/{name}": extra / n_tokens for name, extra in zip(self.objective.metrics, extras, strict=True)},
        }
        if self.val_bytes_per_token is not None:
            metrics["val/bits_per_byte"] = loss / math.log(2) / self.val_bytes_per_token
        self._log(self.trainer.global_step, metrics)
        self._validated_step = self.trainer.global_step

    @property
    def owes_validation(self) -> bool:
        """Whether the last step is one that validates, and has not yet."""
        trainer, step = self.trainer, self.trainer.global_step
        is_due = step >= self._max_steps or step % int(trainer.val_check_batch or trainer.val_check_interval) == 0
        return bool(trainer.enable_validation and is_due and self._validated_step != step)

    def _sums(self, losses: list[Loss]) -> list[float]:
        """Of the losses, then of each further metric; in double precision, for there may be millions of tokens."""
        columns = [[loss.sum for loss in losses]]
        columns += [[loss.metrics[name] for loss in losses] for name in self.objective.metrics]
        return [float(torch.stack(column).cpu().double().sum()) if column else 0.0 for column in columns]

    # -- setup and state -------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._make_optimizer(self.model)

    @property
    def recent_train_loss(self) -> float | None:
        """Mean over the tokens of the last steps, nats per token."""
        tokens = sum(n for _, n in self._recent)
        return sum(loss for loss, _ in self._recent) / tokens if tokens else None

    @property
    def n_tokens(self) -> int:
        """Tokens trained on so far, over all ranks."""
        return self._tokens

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning's loops are left out: all of them follows from the number of steps."""
        del checkpoint["loops"]
        checkpoint["gptlab"] = {
            "config": self.config,
            "tokenizer": self.tokenizer.state(),
            "vocab_size": self.tokenizer.vocab_size,
            "text_fingerprint": self.text_fingerprint,
            "tokens": self._tokens,
            "recent": [list(pair) for pair in self._recent],
            "clock": self.clock.state(),
            "metrics": dict(self.metrics),
            "n_skipped": self.guard.n_skipped,
            "owes_validation": self.owes_validation,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["gptlab"]
        self._tokens = ours["tokens"]
        self._recent.extend((loss, tokens) for loss, tokens in ours["recent"])
        self.clock.load(ours["clock"])
        self.metrics.update(ours["metrics"])
        self.guard.n_skipped = ours["n_skipped"]
        step = checkpoint["global_step"]
        self._validated_step = -1 if ours["owes_validation"] else step
        _start_at(self.trainer, step)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        """To every logger, with the number of optimizer steps done (Lightning's own counter starts at 0)."""
        self.metrics.update(metrics)
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=step)


def _start_at(trainer: L.Trainer, step: int) -> None:
    """Let Lightning take what comes for a new fit whose counters do not begin at 0.

    Its own way of restoring loops guesses from their counters at which hook a checkpoint was saved, and repeats or
    leaves out a validation where it guesses wrong.
    """
    loop = trainer.fit_loop.epoch_loop
    loop.manual_optimization.optim_step_progress.total.ready = step
    loop.manual_optimization.optim_step_progress.total.completed = step  # trainer.global_step
    loop.batch_progress.total.ready = step  # when to validate
    loop.batch_progress.total.completed = step
    loop._batches_that_stepped = step  # by which callbacks of others count


def _split(batch: Batch, rows: int) -> Iterator[Batch]:
    for start in range(0, len(batch[0]), rows):
        yield tuple(tensor[start : start + rows] for tensor in batch)
