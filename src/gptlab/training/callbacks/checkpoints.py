"""last.ckpt every so many steps, best.ckpt by validation loss."""

import math
from pathlib import Path
from typing import Any

import lightning as L

from gptlab.training.checkpoint_io import WholeFileCheckpointIO
from gptlab.training.module import TrainingModule
from gptlab.training.run_files import BEST, LAST, appended_sizes
from gptlab.training.stops import Interrupted, NonFiniteError


class Checkpoints(L.Callback):
    """Saves last.ckpt, with all that resuming needs, and best.ckpt, with the weights alone.

    A step that also validates saves behind the validation, so that its numbers are in the checkpoint. A run that is
    stopped, or that an exception ends between two steps, saves the last step that it did: where that one's validation
    is missing, the checkpoint says so.

    Args:
        directory: where they go.
        save_every: steps between two last.ckpt.
    """

    def __init__(self, *, directory: str, save_every: int) -> None:
        if save_every < 1:
            raise ValueError(f"save_every={save_every} must be at least 1")
        self.directory = Path(directory)
        self.save_every = save_every
        self.best_val_loss = math.inf
        self.best_step: int | None = None
        self._saved: tuple[int, bool] | None = None  # step, and whether its validation was still to come

    def on_sanity_check_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._has_begun(trainer, module)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._has_begun(trainer, module)

    def _has_begun(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """All that a checkpoint holds is restored by now; before, what is there must not be saved over it."""
        assert isinstance(module, TrainingModule)
        if self._saved is None:
            self._saved = (trainer.global_step, module.owes_validation)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, TrainingModule)
        if self._is_due(trainer) and not module.owes_validation:
            self._save_last(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        val_loss = module.metrics["val/loss"]
        if val_loss < self.best_val_loss and self._saves_best(trainer):
            self.best_val_loss, self.best_step = val_loss, step
        if step > 0 and self._is_due(trainer):
            self._save_last(trainer, module)

    def _is_due(self, trainer: L.Trainer) -> bool:
        return trainer.global_step % self.save_every == 0 or trainer.global_step >= trainer.max_steps

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Where something else than the number of steps has ended the run, such as a callback for early stopping."""
        assert isinstance(module, TrainingModule)
        if trainer.global_step > 0:
            self._save_last(trainer, module)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        """Of an accident, other ranks know nothing: they would wait for this one, or it for them."""
        assert isinstance(module, TrainingModule)
        is_accident = isinstance(exception, Exception) and not isinstance(exception, NonFiniteError)
        if isinstance(exception, Interrupted) or (is_accident and trainer.world_size == 1 and module.weights_are_whole):
            self._save_last(trainer, module)

    def _save_last(self, trainer: L.Trainer, module: TrainingModule) -> None:
        saved = (trainer.global_step, module.owes_validation)
        if self._saved is not None and saved != self._saved:
            for logger in trainer.loggers:  # what is logged of this step is on disk before the step counts as done
                logger.save()
            trainer.save_checkpoint(self.directory / LAST, weights_only=False)
            self._saved = saved
            module.clock.pause()

    def _saves_best(self, trainer: L.Trainer) -> bool:
        """Whether it was possible, which the first rank knows."""
        trainer.save_checkpoint(self.directory / BEST, weights_only=True)
        checkpoint_io = trainer.strategy.checkpoint_io
        assert isinstance(checkpoint_io, WholeFileCheckpointIO)
        return trainer.strategy.broadcast(BEST not in checkpoint_io.failures)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_val_loss": self.best_val_loss,
            "best_step": self.best_step,
            "appended": appended_sizes(self.directory.parent),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_val_loss, self.best_step = state_dict["best_val_loss"], state_dict["best_step"]
