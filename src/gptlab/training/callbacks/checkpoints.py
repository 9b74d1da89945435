"""last.ckpt every so many steps, best.ckpt by validation loss."""

import math
from pathlib import Path
from typing import Any

import lightning as L

from gptlab.training.checkpoint_io import BEST, LAST
from gptlab.training.module import TrainingModule


class Checkpoints(L.Callback):
    """Saves last.ckpt, with all that resuming needs, and best.ckpt, with the weights alone.

    A step that also validates saves behind the validation: a checkpoint from before it would make Lightning skip that
    validation on resume.

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
        self._saved_step = -1

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        is_last, is_due = trainer.should_stop, step % self.save_every == 0
        validates = trainer.enable_validation and (is_last or step % int(trainer.val_check_batch or 1) == 0)
        if (is_due or is_last) and not validates:
            self._save_last(trainer, module)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        step = trainer.global_step
        val_loss = module.metrics["val/loss"]
        if val_loss < self.best_val_loss:
            self.best_val_loss, self.best_step = val_loss, step
            trainer.save_checkpoint(self.directory / BEST, weights_only=True)
        if (step > 0 and step % self.save_every == 0) or trainer.should_stop:
            self._save_last(trainer, module)

    def _save_last(self, trainer: L.Trainer, module: TrainingModule) -> None:
        if trainer.global_step != self._saved_step:
            self._saved_step = trainer.global_step
            for logger in trainer.loggers:  # what is logged of this step is on disk before the step counts as done
                logger.save()
            trainer.save_checkpoint(self.directory / LAST, weights_only=False)
            module.clock.pause()

    def state_dict(self) -> dict[str, Any]:
        return {"best_val_loss": self.best_val_loss, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_val_loss, self.best_step = state_dict["best_val_loss"], state_dict["best_step"]
