"""Lightning's Trainer as gptlab runs it."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment

from gptlab.files import give_name, whole_file
from gptlab.training.callbacks.checkpoints import Checkpoints
from gptlab.training.devices import Hardware
from gptlab.training.launchers import started_by
from gptlab.training.log import quiet_lightning
from gptlab.training.run_files import LAST, PREVIOUS


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name, syncs it and renames it. last.ckpt becomes previous.ckpt."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Raises OSError if the file cannot be written; the one that was there stays."""
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(final) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's report of a failed write
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None
            if final.name == LAST and final.exists():
                give_name(final, final.with_name(PREVIOUS))


def make_trainer(
    trainer: Callable[..., L.Trainer],
    *,
    hardware: Hardware,
    loggers: Sequence[Logger],
    callbacks: Sequence[L.Callback],
    max_steps: int,
    validate_every: int,
    log_every: int,
    run_dir: Path,
) -> L.Trainer:
    """A Trainer that counts optimizer steps, validates by steps, and writes checkpoints atomically.

    Args:
        trainer: `L.Trainer`, or a partial of it with further settings.
        loggers, callbacks: its own. Without a Checkpoints or ModelCheckpoint among them nothing is saved.
        max_steps, validate_every, log_every: optimizer steps.
        run_dir: where Lightning's other callbacks write.
    """
    quiet_lightning()
    further: dict[str, Any] = {}
    if hardware.is_sharded:
        from gptlab.training.sharding import ShardedStrategy  # imports DTensor's parts

        further["strategy"] = ShardedStrategy(hardware.n_ranks)
    environment: list[ClusterEnvironment] = []
    if started_by() == "srun":
        environment = [SLURMEnvironment(auto_requeue=False)]  # resume=auto replaces it
    elif SLURMEnvironment.detect() and started_by() is None:  # Lightning starts the ranks of a job with one task
        environment = [LightningEnvironment()]
    return trainer(
        accelerator=hardware.accelerator,
        precision=hardware.precision,
        logger=list(loggers),
        callbacks=sorted(
            callbacks, key=lambda callback: isinstance(callback, Checkpoints)
        ),  # it saves the others' state
        plugins=[WholeFileCheckpointIO(), *environment],
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=log_every,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, L.pytorch.callbacks.Checkpoint) for callback in callbacks),
        use_distributed_sampler=False,
        default_root_dir=run_dir,
        **further,
    )
