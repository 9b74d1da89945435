"""Load a model from a run, a checkpoint file, a Hugging Face directory or the Hub; export it as a directory."""

from collections.abc import Sequence
from pathlib import Path

from gptlab.checkpoint import hub, hugging_face, run
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError

__all__ = ["Loaded", "load"]


def load(source: str | Path, *, trust: str | Sequence[str] = ()) -> Loaded:
    """Load a trained model.

    Args:
        source: a run directory (its best checkpoint, else its last), a .ckpt file, a Hugging Face directory
            (config.json, safetensors, tokenizer files), or a repository on the Hub with an optional `@revision`;
            `gpt2`, `gpt2-medium`, `gpt2-large` and `gpt2-xl` are short for OpenAI's. Files and directories of that
            name come before the Hub.
        trust: packages, other than gptlab, whose classes a checkpoint may name: their code runs.

    Raises:
        UserError: if there is no such model, if it cannot be read, or if it needs a package that is not trusted.
    """
    name, path = str(source), Path(source).expanduser()
    if not name:
        raise UserError("the name of the model is empty: a run, a Hugging Face directory, or a Hub id such as gpt2")
    checkpoint = run.find_checkpoint(path) if path.is_dir() else path
    if checkpoint is not None and checkpoint.is_file():
        return run.load_file(checkpoint, name, [trust] if isinstance(trust, str) else trust)
    if (path / hugging_face.CONFIG).is_file():
        return hugging_face.load_directory(path, name)
    if path.exists():
        raise UserError(f"{name} holds no checkpoint: neither checkpoints/{run.RUN_CHECKPOINTS[0]} nor config.json")
    if hub.is_repository(source):
        return hugging_face.load_directory(hub.download(source), name)
    raise UserError(f"{name} does not exist: name a run directory, a checkpoint file, or a repository on the Hub")
