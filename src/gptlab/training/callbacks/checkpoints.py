"""Saves last.ckpt every so many steps, and best.ckpt by the objective's best metric."""

import math
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from gptlab.training.module import TrainingModule
from gptlab.training.run_files import BEST, LAST, log_sizes
from gptlab.training.stops import Interrupted


class Checkpoints(Checkpoint):
    """last.ckpt holds everything that resuming needs, best.ckpt the weights only.

    A step is saved once its metrics are logged: after its validation, or before the next step. A run that ends, is
    stopped or fails saves its last step; the checkpoint says whether that step's validation is pending. While steps are
    skipped nothing is saved: weights that are nan must not replace good ones.

    Args:
        directory: where they are written.
        save_every: steps between two last.ckpt.

    Attributes:
        best: best_step, best_value and best_val_loss of best.ckpt; None before the first.
    """

    def __init__(self, *, directory: str, save_every: int) -> None:
        if save_every < 1:
            raise ValueError(f"save_every={save_every} must be at least 1")
        self.directory = Path(directory)
        self.save_every = save_every
        self.best: dict[str, Any] = dict.fromkeys(("best_step", "best_value", "best_val_loss"))
        self._saved: tuple[int, bool] | None = None  # step, and whether its validation was pending

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        """Everything is restored now. A failure before must not overwrite the checkpoints that are there."""
        self._saved = (trainer.global_step, module.validation_pending)

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *_: Any) -> None:
        if trainer.global_step % self.save_every == 0 and not module.validation_pending:
            self._save_last(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_best(trainer, module)
            if trainer.global_step % self.save_every == 0 or trainer.should_stop:
                self._save_last(trainer, module)

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        """Saves the last step of a run without validation."""
        self._save_last(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """After a failure on one of several ranks the others would wait: nothing is saved."""
        is_safe = isinstance(exception, Exception) and trainer.world_size == 1 and module.between_steps
        if self._saved is not None and (isinstance(exception, Interrupted) or is_safe):
            self._save_best(trainer, module)
            self._save_last(trainer, module)

    def _save_last(self, trainer: L.Trainer, module: TrainingModule) -> None:
        module.catch_up()
        now = (trainer.global_step, module.validation_pending)
        if now != self._saved and trainer.global_step > 0 and not module.guard.in_a_row:
            for logger in trainer.loggers:  # what is logged of this step is in the files before the step counts as done
                logger.save()
            trainer.save_checkpoint(self.directory / LAST, weights_only=False)
            self._saved = now
            module.clock.pause()

    def _save_best(self, trainer: L.Trainer, module: TrainingModule) -> None:
        sign, best = 1 if module.objective.direction == "min" else -1, self.best["best_value"]
        value = module.metrics.get(module.objective.best_metric, math.nan)
        if sign * value < (math.inf if best is None else sign * best):
            trainer.save_checkpoint(self.directory / BEST, weights_only=True)
            self.best = {"best_step": trainer.global_step, "best_value": value}
            self.best["best_val_loss"] = module.metrics.get("val/loss")

    def state_dict(self) -> dict[str, Any]:
        return {**self.best, "appended": log_sizes(self.directory.parent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["best_step"] is not None:  # checkpoints of 0.1.0 lack best_value
            found = {"best_value": state_dict["best_val_loss"], **state_dict}
            self.best = {name: found[name] for name in self.best}
