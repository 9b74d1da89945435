"""Runs and their .ckpt files: plain data and tensors in, a model ready to use out."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object

from gptlab import build
from gptlab.checkpoint.loaded import Loaded, filled
from gptlab.errors import UserError
from gptlab.integrity import is_whole_zip
from gptlab.tokenizer import Tokenizer

RUN_CHECKPOINTS = ("best.ckpt", "last.ckpt", "previous.ckpt")
"""What of a run directory is taken for its model, the first that is there."""
WEIGHTS_PREFIX = "model."


class DamagedError(UserError):
    """A file is there and can be read, and does not hold what it should."""


def is_run(directory: Path) -> bool:
    """Whether a directory holds a run's checkpoint."""
    return any((directory / "checkpoints" / name).is_file() for name in RUN_CHECKPOINTS)


def load_file(path: Path, name: str) -> Loaded:
    """The model of a .ckpt file.

    Args:
        path: the file.
        name: what the user asked for.

    Raises:
        UserError: where it is no checkpoint of gptlab's.
    """
    if path.suffix == ".safetensors":
        raise UserError(f"{name} holds weights alone: name its directory, with config.json in it")
    checkpoint = read_checkpoint(path)
    ours = checkpoint["gptlab"]
    try:
        config = ours["config"]
        _only_our_own(config["model"], path)
        _only_our_own(config["tokenizer"], path)
        tokenizer = _restore_tokenizer(config, ours["tokenizer"], path)
        weights = {
            key.removeprefix(WEIGHTS_PREFIX): tensor
            for key, tensor in checkpoint["state_dict"].items()
            if key.startswith(WEIGHTS_PREFIX)
        }
        training = {
            "steps": checkpoint["global_step"],
            "tokens": ours["tokens"],
            "seconds": ours["clock"]["seconds"],
            **{
                name.replace("/", "_"): value
                for name, value in ours["metrics"].items()
                if name.startswith("val/") and value is not None
            },
        }
        _check_kinds(config, training)
        if config["model"]["n_layers"] > len(weights):  # a number from anywhere: it shall not keep this machine busy
            raise TypeError(f"n_layers={config['model']['n_layers']}, and there are {len(weights)} tensors")
        model = filled(build.meta_model(config, ours["vocab_size"]), weights)
        if tokenizer.vocab_size != model.head.out_features:
            raise UserError(
                f"{path} does not fit together: its tokenizer has {tokenizer.vocab_size:,} tokens, "
                f"its model {model.head.out_features:,}"
            )
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path} does not fit together as a gptlab checkpoint: {reason}") from None
    return Loaded(model.eval(), tokenizer, config, path, name, training)


def find_checkpoint(run_dir: Path) -> Path:
    """The checkpoint file of a run directory."""
    for name in RUN_CHECKPOINTS:
        if (run_dir / "checkpoints" / name).is_file():
            return run_dir / "checkpoints" / name
    raise UserError(f"{run_dir} holds no checkpoint (no checkpoints/{RUN_CHECKPOINTS[0]} in it)")


def newest_run(outputs: Path) -> Path:
    """The run directory whose checkpoint was written last."""
    checkpoints = [path for path in outputs.glob("**/checkpoints/*.ckpt") if path.is_file()]
    if not checkpoints:
        raise UserError(f"there is no run under {outputs}/ yet: train one first, or name one with checkpoint=<path>")
    return max(checkpoints, key=lambda path: path.stat().st_mtime).parents[1]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a .ckpt file, verified and memory-mapped; only plain data and tensors are ever unpickled.

    Raises:
        DamagedError: where it is not whole, or no checkpoint of gptlab's.
        UserError: where it cannot be read.
    """
    damaged = DamagedError(f"{path} is truncated, damaged, or no checkpoint")
    try:
        if not is_whole_zip(path):
            raise damaged
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, on what it is about to refuse
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch reports a broken file in many ways, and a pickle of something else in more
        raise damaged from None
    if not isinstance(checkpoint, dict) or "gptlab" not in checkpoint or "state_dict" not in checkpoint:
        raise DamagedError(f"{path} is a torch file, but no checkpoint of gptlab's")
    return checkpoint


def _check_kinds(config: build.Config, training: dict[str, Any]) -> None:
    """Raises TypeError or AttributeError where what a run tells of itself is not of the kind that is shown later."""
    samples = (config.get("callbacks") or {}).get("samples") or {}
    optimizer = config.get("optimizer") or {}
    kinds = {
        int: {"batch_size": config["batch_size"], "seed": config["seed"]},
        str | None: {
            "data.path": config["data"].get("path"),
            "init_from": config.get("init_from"),
            "callbacks.samples.prompt": samples.get("prompt"),
        },
        int | float: training,
        dict: {"optimizer": optimizer},
    }
    for kind, values in kinds.items():
        for name, value in values.items():
            if not isinstance(value, kind):
                raise TypeError(f"{name}={value!r}")


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
