"""`resume=<run directory>`: the run's own configuration, with the few changes that leave what it trains alone."""

from pathlib import Path

import yaml

from gptlab import build
from gptlab.build import Config
from gptlab.checkpoint.run import read_checkpoint
from gptlab.cli.explain import command_line
from gptlab.errors import UserError

CHANGEABLE_KEYS = ("max_steps", "validate_every", "save_every", "data.num_workers", "data.cache_dir")
CHANGEABLE_GROUPS = ("trainer", "logger", "callbacks")


def resumed_config(run_dir: Path, composed: Config, overrides: list[str]) -> Config:
    """The configuration that a run goes on with.

    Args:
        run_dir: the run.
        composed: what the command line composes to; its values count where an override changes something.
        overrides: the command line.

    Raises:
        UserError: where there is no run, where it is finished, or where an override would change what is trained.
    """
    try:
        config: Config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"resume={run_dir} is no run directory: it has no config.yaml") from None
    except yaml.YAMLError:
        raise UserError(f"resume={run_dir}: its config.yaml is damaged") from None
    config.setdefault("init_from", None)  # runs of before there was such a thing
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key == "resume":
            continue
        if key in CHANGEABLE_KEYS or key.partition(".")[0] in CHANGEABLE_GROUPS:
            _copy(key.split("."), composed, config)
        else:
            can_change = ", ".join([*CHANGEABLE_KEYS, *(f"{group}.*" for group in CHANGEABLE_GROUPS)])
            raise UserError(f"{key} cannot change in a resumed run, only {can_change}; start a new run for the rest")
    config["run_dir"], config["resume"] = str(run_dir), str(run_dir)
    settings = build.settings(config)
    steps = read_checkpoint(last_checkpoint(run_dir))["global_step"]
    if steps >= settings.max_steps:
        longer = command_line("train", resume=run_dir, max_steps=2 * steps)
        raise UserError(f"the run in {run_dir} has finished its {steps} steps; to go on beyond them: {longer}")
    return config


def _copy(path: list[str], source: Config, target: Config) -> None:
    """Give the target what the source has at a place, or take it away where the source has nothing there."""
    *parents, name = path
    for part in parents:
        source, target = source.get(part) or {}, target.setdefault(part, {})
    if name in source:
        target[name] = source[name]
    else:
        target.pop(name, None)


def last_checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint that holds all that resuming needs."""
    for name in ("last.ckpt", "previous.ckpt"):
        if (run_dir / "checkpoints" / name).is_file():
            return run_dir / "checkpoints" / name
    raise UserError(f"resume={run_dir}: the run ended before its first checkpoint; start it over")
