"""`load(source)`: one door for everyone who needs a model."""

from pathlib import Path

from gptlab.checkpoint import hub, hugging_face, run
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError


def load(source: str | Path) -> Loaded:
    """Open a trained model.

    Args:
        source: a run directory (its best checkpoint counts, else its last), a .ckpt file, a Hugging Face directory
            (config.json, safetensors, tokenizer files), or a repository on the Hub with an optional `@revision`;
            `gpt2`, `gpt2-medium`, `gpt2-large` and `gpt2-xl` are short for OpenAI's. What lies here goes first.

    Raises:
        UserError: where there is nothing of that kind, or where it cannot be read.
    """
    name = str(source)
    path = Path(source).expanduser()
    if not name:
        raise UserError("the name of the model is empty: a run, a Hugging Face directory, or a Hub id such as gpt2")
    if path.is_file():
        return run.load_file(path, name)
    if path.is_dir():
        if run.is_run(path):
            return run.load_file(run.find_checkpoint(path), name)
        if hugging_face.is_hugging_face(path):
            return hugging_face.load_directory(path, name)
        hint = f"; for the Hub's, write {hub.repository_of(name)}" if name in hub.OPENAIS else ""
        raise UserError(
            f"{name} holds no checkpoint: neither checkpoints/{run.RUN_CHECKPOINTS[0]} nor config.json and "
            f"model.safetensors are in it{hint}"
        )
    if hub.is_repository(source):
        return hugging_face.load_directory(hub.download(name), name)
    raise UserError(f"{name} is neither a run directory nor a checkpoint file: there is nothing")
