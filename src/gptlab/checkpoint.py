"""Checkpoints: plain data and tensors in, a model ready to use out."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object

from gptlab import build
from gptlab.errors import UserError
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer

RUN_CHECKPOINTS = ("best.ckpt", "last.ckpt", "previous.ckpt")
"""What of a run directory is taken for its model, the first that is there."""
WEIGHTS_PREFIX = "model."


@dataclass(frozen=True)
class Loaded:
    """A model with what belongs to it.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: the one that it was trained with.
        config: the resolved configuration of its run, plain data.
        path: the file that it came from.
    """

    model: GPT
    tokenizer: Tokenizer
    config: build.Config
    path: Path


def load(source: str | Path) -> Loaded:
    """Open a trained model.

    Args:
        source: a run directory (its best checkpoint counts, else its last) or a .ckpt file.

    Raises:
        UserError: where nothing is there, or it is no checkpoint of gptlab's.
    """
    path = find_checkpoint(Path(source).expanduser())
    checkpoint = read_checkpoint(path)
    ours = checkpoint["gptlab"]
    try:
        config = ours["config"]
        _only_our_own(config["model"], path)
        _only_our_own(config["tokenizer"], path)
        tokenizer = _restore_tokenizer(config, ours["tokenizer"], path)
        weights = {
            name.removeprefix(WEIGHTS_PREFIX): tensor
            for name, tensor in checkpoint["state_dict"].items()
            if name.startswith(WEIGHTS_PREFIX)
        }
        with torch.device("meta"):  # no memory and no time for weights that are replaced at once
            model = build.model(config, ours["vocab_size"])
        tied = model.head.weight is model.trunk.token_embedding.weight
        model.load_state_dict(weights, assign=True)
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} does not fit together as a gptlab checkpoint: {reason}") from None
    if tied:  # assigning has made two of one
        model.head.weight = model.trunk.token_embedding.weight
    return Loaded(model.eval(), tokenizer, config, path)


def find_checkpoint(source: Path) -> Path:
    """The checkpoint file of a run directory, or the file itself."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise UserError(f"{source} is neither a run directory nor a checkpoint file: there is nothing")
    for name in RUN_CHECKPOINTS:
        if (source / "checkpoints" / name).is_file():
            return source / "checkpoints" / name
    raise UserError(f"{source} holds no checkpoint (no checkpoints/{RUN_CHECKPOINTS[0]} in it)")


def newest_run(outputs: Path) -> Path:
    """The run directory whose checkpoint was written last."""
    checkpoints = list(outputs.glob("**/checkpoints/*.ckpt"))
    if not checkpoints:
        raise UserError(f"there is no run under {outputs}/ yet: train one first, or name one with checkpoint=<path>")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parents[1]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a .ckpt file, memory-mapped; only plain data and tensors are ever unpickled."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch reports a broken file in many ways, and a pickle of something else in more
        raise UserError(f"{path} is truncated, damaged, or no checkpoint") from None
    if not isinstance(checkpoint, dict) or "gptlab" not in checkpoint or "state_dict" not in checkpoint:
        raise UserError(f"{path} is a torch file, but no checkpoint of gptlab's")
    return checkpoint


def _restore_tokenizer(config: build.Config, state: dict[str, Any], path: Path) -> Tokenizer:
    cls = get_object(config["tokenizer"]["_target_"])
    try:
        return cls.from_state(state)
    except ValueError as error:  # gpt2's vocabulary is not in the file
        raise UserError(f"{path} needs a tokenizer that is not here: {error}") from None


def _only_our_own(node: Any, path: Path) -> None:
    """A checkpoint may come from anyone, and `_target_: os.system` would be a program: only our own code counts."""
    if isinstance(node, list):
        for item in node:
            _only_our_own(item, path)
    if isinstance(node, dict):
        for value in node.values():
            _only_our_own(value, path)
        if "_target_" in node:
            target = str(node["_target_"])
            try:
                found = get_object(target) if target.startswith(("gptlab.model.", "gptlab.tokenizer.")) else None
            except Exception:
                found = None
            is_code = inspect.isclass(found) or inspect.isfunction(found)
            if not (is_code and found.__module__.startswith(("gptlab.model.", "gptlab.tokenizer."))):
                raise UserError(f"{path} wants to be built by {target}, which is no model or tokenizer of gptlab's")
