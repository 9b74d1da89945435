"""What a sweep is: sweep.yaml in its directory, by which it goes on as the same."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gptlab.arguments import nearest
from gptlab.errors import UserError
from gptlab.files import write_yaml
from gptlab.sweep.space import Parameter, Values, combinations, parameter

SWEEP = "sweep.yaml"
SAMPLERS = ("tpe", "random", "grid", "cmaes", "gp")
PRUNERS = ("median", "successive_halving", "hyperband")
BITS_PER_BYTE = "val_bits_per_byte"
REPORTED = {
    "val_loss": "val/loss",
    "best_val_loss": "val/loss",
    "val_perplexity": "val/perplexity",
    BITS_PER_BYTE: "val/bits_per_byte",
}
"""Metrics of summary.json by which a trial can be pruned, and what a validation calls them."""
METRICS = (*REPORTED, "train_loss", "tokens_per_second", "seconds")


@dataclass(frozen=True)
class Definition:
    """All that decides which trials there are, and what they are judged by.

    Attributes:
        words: the command line of each trial, but for what is swept.
        space: of each swept key its search space, in words.
        config: dotted keys and values as conf's files and the command line composed them: what all trials share, and
            what each swept choice of a file adds.
        sampler: one of SAMPLERS.
        pruner: one of PRUNERS; None prunes nothing.
        seed: of the sampler.
        metric: a number of summary.json.
        direction: minimize or maximize.
        validate_every: steps between two reports to the pruner.
        max_steps: of a trial.
        command: that began the sweep, behind `gptlab train`, for people.
    """

    words: list[str]
    space: dict[str, Any]
    config: dict[str, Any]
    sampler: str
    pruner: str | None
    seed: int
    metric: str
    direction: str
    validate_every: int
    max_steps: int
    command: list[str]

    def __post_init__(self) -> None:
        _choose("sampler", self.sampler, SAMPLERS)
        _choose("metric", self.metric, METRICS)
        _choose("direction", self.direction, ("minimize", "maximize"))
        if self.pruner is not None:
            _choose("pruner", self.pruner, PRUNERS)
            if self.metric not in REPORTED:
                raise UserError(f"pruner={self.pruner} wants a metric of validations: one of {', '.join(REPORTED)}")
        if self.seed < 0:
            raise UserError(f"hydra.sweeper.seed={self.seed} must be 0 or more")
        if self.sampler == "grid":
            combinations(self.parameters)
            return
        for entry in self.parameters:
            if isinstance(entry, Values) and entry.word == "grid":
                raise UserError(f"{entry.key} is a grid, of which sampler=grid tries all: write choice: {entry.values}")
        if not self.space:
            raise UserError(f"sampler={self.sampler} has nothing to search: give hydra.sweeper.space some keys")

    @property
    def parameters(self) -> list[Parameter]:
        return [parameter(key, node) for key, node in self.space.items()]

    @property
    def n_combinations(self) -> int | None:
        """Of a grid; None where trials have no end."""
        if self.sampler != "grid":
            return None
        return math.prod(len(entry.values) for entry in self.parameters if isinstance(entry, Values))

    def write(self, sweep_dir: Path) -> None:
        write_yaml(sweep_dir / SWEEP, asdict(self))

    @staticmethod
    def read(sweep_dir: Path) -> "Definition":
        """Raises UserError where there is none, or none that can be read."""
        try:
            return Definition(**yaml.safe_load((sweep_dir / SWEEP).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"resume_sweep={sweep_dir} is no sweep: there is no {SWEEP} in it") from None
        except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"resume_sweep={sweep_dir}: its {SWEEP} cannot be read: {str(error).splitlines()[0]}"
            ) from None

    def difference(self, other: "Definition") -> str | None:
        """What is not the same in another one, in words; None where nothing is."""
        for key in [*self.space, *(key for key in other.space if key not in self.space)]:
            mine, theirs = self.space.get(key), other.space.get(key)
            if mine != theirs:
                return f"the search space of {key} was {_shown(mine)}, and is {_shown(theirs)} now"
        if list(self.space) != list(other.space):
            return f"its keys were swept in the order {', '.join(self.space)}, and {', '.join(other.space)} now"
        for name in ("sampler", "pruner", "seed", "metric", "direction", "validate_every", "max_steps"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} was {mine}, and is {theirs} now"
        before = [word for word in self.words if word not in other.words]
        now = [word for word in other.words if word not in self.words]
        if before or now:
            return f"its command had {' '.join(before) or 'nothing'} where there is {' '.join(now) or 'nothing'} now"
        for key in (*self.config, *other.config):
            mine, theirs = self.config.get(key, "not there"), other.config.get(key, "not there")
            if mine != theirs:
                return f"{key} was {mine}, and is {theirs} now"
        return None


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"hydra.sweeper.{name}={value} is none of {', '.join(known)}{nearest(str(value), known)}")


def _shown(node: Any) -> str:
    return "none" if node is None else " ".join(f"{word} {content}" for word, content in node.items())
