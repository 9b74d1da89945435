"""The model that a command is about."""

from pathlib import Path

from gptlab.checkpoint import Loaded, load
from gptlab.checkpoint.run import newest_run


def load_asked_for(checkpoint: str | None) -> Loaded:
    """What `checkpoint=` names; null is the newest run under outputs/. Raises UserError where there is none."""
    return load(checkpoint if checkpoint is not None else newest_run(Path("outputs")))
