"""Load a model from a run, a checkpoint file, a Hugging Face directory or the Hub; export it as a directory."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gptlab.checkpoint import hub, hugging_face, peft, run
from gptlab.checkpoint.adapted import find_base
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError

__all__ = ["Loaded", "load"]


def load(source: str | Path, *, trust: str | Sequence[str] = (), base: str | Path | None = None) -> Loaded:
    """Load a trained model.

    Args:
        source: a run directory (its best checkpoint, else its last), a .ckpt file, a Hugging Face directory
            (config.json, safetensors, tokenizer files), a directory of PEFT's with a LoRA adapter of a GPT-2, or a
            repository on the Hub with an optional `@revision`; `gpt2`, `gpt2-medium`, `gpt2-large` and `gpt2-xl` are
            short for OpenAI's. Files and directories of that name come before the Hub.
        trust: packages, other than gptlab, whose classes a checkpoint may name: their code runs.
        base: the weights under an adapter, named like a source; None is what the adapter names. The model has the
            adapter merged into them.

    Raises:
        UserError: if there is no such model, if it cannot be read, or if it needs a package that is not trusted.
    """
    name, path, trusted = str(source), Path(source).expanduser(), [trust] if isinstance(trust, str) else trust

    def find(name: str, recorded: str | None, fingerprint: str | None) -> Loaded:
        place = str(base) if base is not None else recorded
        return find_base(name, place, fingerprint, load=partial(load, trust=trust))

    if not name:
        raise UserError("the name of the model is empty: a run, a Hugging Face directory, or a Hub id such as gpt2")
    checkpoint = run.find_checkpoint(path) if path.is_dir() else path
    if checkpoint is not None and checkpoint.is_file():
        return run.load_file(checkpoint, name, trusted, find)
    if not path.exists() and hub.is_repository(source):
        path = hub.download(source)
    if (path / hugging_face.CONFIG).is_file():
        return hugging_face.load_directory(path, name)
    if (path / hugging_face.ADAPTER_CONFIG).is_file():
        return peft.load_directory(path, name, find)
    if path.exists():
        raise UserError(f"{name} holds no checkpoint: neither checkpoints/{run.RUN_CHECKPOINTS[0]} nor config.json")
    raise UserError(f"{name} does not exist: name a run directory, a checkpoint file, or a repository on the Hub")
