"""Checkpoint files that are whole or not there."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class WholeFileCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name, syncs to disk, then renames. What last.ckpt held becomes previous.ckpt."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(final.name + ".tmp")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if final.name == LAST and final.exists():
            final.replace(final.with_name(PREVIOUS))
        partial.replace(final)
