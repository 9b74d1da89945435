"""Runs and their .ckpt files: plain data and tensors in, a model out."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object

from gptlab import build
from gptlab.checkpoint.adapted import FindBase, adapted
from gptlab.checkpoint.compatibility import upgraded_state
from gptlab.checkpoint.loaded import Adapter, Loaded, restored
from gptlab.checkpoint.trust import check_trusted
from gptlab.errors import UserError

RUN_CHECKPOINTS = ("best.ckpt", "last.ckpt", "previous.ckpt")  # the first that exists is the run's model
WEIGHTS_PREFIX = "model."


class DamagedError(UserError):
    """A file can be read, but is no whole checkpoint."""


def find_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint file of a run directory; None if there is none."""
    paths = (run_dir / "checkpoints" / name for name in RUN_CHECKPOINTS)
    return next(filter(Path.is_file, paths), None)


def load_file(path: Path, name: str, trust: Sequence[str], find_base: FindBase) -> Loaded:
    """The model of a .ckpt file, or UserError; `name` is what the user wrote, `trust` packages that may be run."""
    checkpoint = read_checkpoint(path)
    ours = checkpoint["gptlab"]
    config = ours["config"]
    try:
        template = (config.get("data") or {}).get("template")
        check_trusted([config["model"], config["tokenizer"], config.get("adapter"), template], trust, where=str(path))
        state = checkpoint["state_dict"]
        weights = {key.removeprefix(WEIGHTS_PREFIX): state[key] for key in state if key.startswith(WEIGHTS_PREFIX)}
        validation = {key.replace("/", "_"): value for key, value in ours["metrics"].items() if key.startswith("val/")}
        training = {"steps": checkpoint["global_step"], "tokens": ours["tokens"], "seconds": ours["clock"]["seconds"]}
        tokenizer = get_object(config["tokenizer"]["_target_"]).from_state(ours["tokenizer"])
        adapter = None
        if "adapter" in config:
            base = find_base(name, config["init_from"], ours["base_fingerprint"])
            model = adapted(config, ours["vocab_size"], weights, base)
            adapter = Adapter(weights, base=base.name, base_fingerprint=ours["base_fingerprint"])
        else:
            model = restored(config, ours["vocab_size"], weights)
        for key, parameter in model.named_parameters():
            if not parameter.sum().isfinite():
                raise ValueError(f"the weight {key} holds nan or infinity")
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} cannot be loaded: {reason}") from None
    known = {key: value for key, value in {**training, **validation}.items() if value is not None}
    prompt, template = ours.get("prompt") or "", build.construct(template, key="data.template")
    return Loaded(model, tokenizer, config, path, name, known, prompt, adapter, template)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a .ckpt file of any version, memory-mapped; only plain data and tensors are unpickled.

    Raises DamagedError if it is not whole or not a checkpoint of gptlab's, UserError if it cannot be read.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, about what it is about to refuse
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch reports a broken file in many ways
        raise DamagedError(f"{path} is truncated, damaged, or not a checkpoint (.ckpt)") from None
    try:
        return {**checkpoint, "gptlab": upgraded_state(checkpoint["gptlab"]), "state_dict": checkpoint["state_dict"]}
    except (KeyError, TypeError, AttributeError):
        raise DamagedError(f"{path} is a torch file, but no checkpoint of gptlab's") from None
