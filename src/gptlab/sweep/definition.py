"""The definition of a sweep: the settings of hydra.sweeper, and the command line that its trials share."""

import importlib.util
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from gptlab.arguments import nearest
from gptlab.errors import UserError
from gptlab.files import write_yaml
from gptlab.sweep.space import Cases, Parameter, parameter

SWEEP = "sweep.yaml"
SAMPLERS = {"tpe": None, "random": None, "grid": None, "cmaes": "cmaes", "gp": None}
"""Each sampler, and the package that it needs besides Optuna."""
PRUNERS = ("median", "successive_halving", "hyperband")
METRICS = (
    *("val_loss", "best_val_loss", "val_perplexity", "val_bits_per_byte"),
    *("train_loss", "tokens_per_second", "seconds"),
)
"""Numbers of summary.json. An objective may add others, `val_<metric>`."""
MAY_CHANGE = ("n_trials", "n_jobs", "max_failed", "command", "ngram")
"""What may differ when a sweep is resumed."""


@dataclass(frozen=True)
class Definition:
    """The content of sweep.yaml. Raises ValueError on settings that are not possible.

    Attributes:
        arguments: the command line of each trial after `gptlab train`, without the swept keys.
        command: the arguments of the command that started the sweep, for people.
        validate_every: steps between two reports to the pruner.
        space: the search space of each swept key; the others are as in conf/hydra/sweeper/optuna.yaml.
    """

    arguments: list[str]
    command: list[str]
    validate_every: int
    max_steps: int
    space: dict[str, Any]
    sampler: str
    pruner: str | None
    n_trials: int | None
    n_jobs: int
    metric: str
    direction: Literal["minimize", "maximize"]
    seed: int
    max_failed: float
    ngram: str | None = None  # sweeps of before have none
    held_out: list[str] | None = None

    def __post_init__(self) -> None:
        choices = {"sampler": SAMPLERS, "direction": ("minimize", "maximize"), "pruner": (*PRUNERS, None)}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                names = [*filter(None, known)]
                raise ValueError(f"{name}={value} is not one of {', '.join(names)}{nearest(str(value), names)}")
        if self.pruner is not None and validation_metric(self.metric) is None:
            raise ValueError(f"pruner={self.pruner} needs a metric of validations, such as val_loss")
        if self.pruner is not None and self.held_out is not None:
            raise ValueError(f"pruner={self.pruner}: held_out needs runs that train to their end, set pruner=null")
        if self.n_trials is not None and self.n_trials < 1:
            raise ValueError(f"n_trials={self.n_trials} must be at least 1")
        if self.n_trials is None and self.sampler != "grid":
            raise ValueError(f"n_trials=null: sampler={self.sampler} never ends by itself, set a number")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed={self.max_failed} must be a share from 0 to 1")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be 0 or more")
        package = SAMPLERS[self.sampler]
        if package is not None and importlib.util.find_spec(package) is None:
            raise ValueError(f"sampler={self.sampler} needs the package {package}: pip install 'gptlab[samplers]'")
        if self.sampler != "grid" and not self.space:
            raise ValueError(f"sampler={self.sampler} has nothing to search: add keys to hydra.sweeper.space")
        for entry in self.parameters:
            if self.sampler == "grid" and not entry.is_list:
                raise ValueError(f"sampler=grid, and {entry.key} is a range: use hydra/sweeper=optuna, or list values")
            if self.sampler != "grid" and entry.kind == "grid":
                raise ValueError(f"sampler={self.sampler}, and {entry.key} is a grid: write choice or use sampler=grid")

    @property
    def parameters(self) -> list[Parameter]:
        return [parameter(key, node) for key, node in self.space.items()]

    @property
    def cases(self) -> Cases | None:
        return next((entry for entry in self.parameters if isinstance(entry, Cases)), None)

    @property
    def n_planned(self) -> int:
        """The number of trials, including failed ones."""
        n_combinations = math.prod(len(entry.values) for entry in self.parameters) if self.sampler == "grid" else None
        return min(n for n in (self.n_trials, n_combinations) if n is not None)

    def write(self, sweep_dir: Path) -> None:
        write_yaml(sweep_dir / SWEEP, asdict(self))

    @staticmethod
    def read(sweep_dir: Path) -> "Definition":
        """Raises UserError if the directory holds no sweep."""
        try:
            return Definition(**yaml.safe_load((sweep_dir / SWEEP).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"resume_sweep={sweep_dir} is no sweep: its {SWEEP} cannot be read ({why})") from None

    def difference(self, other: "Definition") -> str | None:
        """The first difference to another definition, in words; None if they are the same sweep."""
        before, now = ({**asdict(one), "space": None, **one.space} for one in (self, other))
        for name in sorted({**before, **now}, key="arguments".__eq__):  # the long one last
            if name not in MAY_CHANGE and before.get(name) != now.get(name):
                return f"{name} was {before.get(name)}, and is {now.get(name)} now"
        return None


def validation_metric(metric: str) -> str | None:
    """What validations call a number of summary.json: `best_val_loss` is `val/loss`. None for other numbers."""
    name = metric.removeprefix("best_")
    return f"val/{name.removeprefix('val_')}" if name.startswith("val_") else None
