"""`max_steps=`, `max_minutes=`, `max_tokens=` and `max_flops=`: one of them decides how long a run is."""

from collections.abc import Iterable

from omegaconf import DictConfig

from gptlab import build
from gptlab.cli.free_text import key_of
from gptlab.errors import UserError
from gptlab.training.budget import BUDGETS, OPEN


def choose_budget(cfg: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """The configuration with one budget: the one that the command line names, or else that of a file.

    `max_steps` is OPEN if another budget decides it. Raises UserError if there are two.
    """
    named = [name for name in dict.fromkeys(map(key_of, overrides)) if name in BUDGETS and cfg[name] is not None]
    named = named or [name for name in BUDGETS[1:] if cfg[name] is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} are two budgets: name one")
    if not named:
        return cfg
    cfg = cfg.copy()
    for name in BUDGETS[1:]:
        cfg[name] = cfg[name] if name in named else None
    if named != ["max_steps"]:
        cfg.max_steps = OPEN
    return cfg


def counted_steps(config: build.Config, *, tokens: int, flops: float) -> build.Config:
    """The configuration with the steps that a budget of tokens or operations allows.

    Args:
        config: with OPEN for each value that is `max_steps`.
        tokens, flops: of one step.

    Raises:
        UserError: if it allows none, or if the schedule does not fit into them.
    """
    limits = {"max_tokens": (tokens, "tokens"), "max_flops": (flops, "floating-point operations")}
    for name, (cost, unit) in limits.items():
        if config[name] is not None:
            n_steps = int(config[name] / cost)
            if n_steps == 0:
                raise UserError(f"{name}={config[name]:g} is less than one step, which takes {cost:,.0f} {unit}")
            config = with_steps(config, n_steps)
            build.part(config, "schedule")(0)
    return config


def with_steps(config: build.Config, n_steps: int) -> build.Config:
    """The configuration with this number wherever a value is OPEN."""
    values = {name: n_steps if value == OPEN else value for name, value in config.items()}
    return {name: with_steps(value, n_steps) if isinstance(value, dict) else value for name, value in values.items()}
