"""Checkpoint files that are whole or not there."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from gptlab.files import give_name, whole_file
from gptlab.integrity import is_whole_zip
from gptlab.training.run_files import LAST, PREVIOUS

log = logging.getLogger("gptlab")


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, reads it back, syncs, renames. What last.ckpt held becomes previous.ckpt.

    A disk that is full costs a warning: training goes on, the checkpoints that are there stay, and the next save tries
    again.

    Attributes:
        failures: of each name, why its newest save was not possible; nothing where it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, str] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        final = Path(path)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            _save(checkpoint, final)
        except OSError as error:
            self.failures[final.name] = f"{final} could not be saved ({error.strerror or error})"
            log.warning("%s: training goes on, and the next save tries again", self.failures[final.name])
        else:
            self.failures.pop(final.name, None)


def _save(checkpoint: dict[str, Any], final: Path) -> None:
    def check(partial: Path) -> None:
        if not is_whole_zip(partial):
            raise OSError("what was written cannot be read back")
        if final.name == LAST and final.exists():
            give_name(final, final.with_name(PREVIOUS))

    with whole_file(final, check=check) as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:  # what torch makes of a write that failed
            if not isinstance(error.__context__, OSError) and "inline_container" not in str(error):
                raise
            raise OSError(f"torch says: {str(error).splitlines()[0]}") from None
