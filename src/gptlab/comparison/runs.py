"""Runs on disk, grouped and labelled by the settings in which they differ."""

import csv
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.errors import UserError
from gptlab.training.budget import BUDGETS
from gptlab.training.metrics import METRICS
from gptlab.training.run_files import read_config

IGNORED = {
    *("seed", "run_dir", "resume", "check_device", "save_every", "validate_every"),
    *("data.num_workers", "data.cache_dir"),
}
"""Settings that do not change what is trained, and the seed. Loggers and gptlab's callbacks are ignored too."""
TARGET = "_target_"
MOST_KEYS = 6
"""Groups that differ in more settings, such as two experiments, are labelled by directory."""
BARE = re.compile(r"(?!(null|true|false|nan|inf|infinity)$)[a-z_/~][\w/.~-]*", re.IGNORECASE)
"""Text that an override gives without quotes."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run so far.

    Attributes:
        directory: its absolute path.
        settings: its configuration by dotted key; None if config.yaml is missing or damaged.
        metrics: the columns of metrics.csv; nan for a step without a value.
        is_causal: whether a token sees only itself and earlier tokens; the loss says little otherwise.
        unit: what its loss is averaged over.
    """

    directory: Path
    settings: dict[str, Any] | None
    metrics: dict[str, np.ndarray]
    is_causal: bool = True
    unit: str = "token"

    def has(self, column: str) -> bool:
        """Whether it has a value of this metric."""
        return bool(np.isfinite(self.metrics.get(column, np.empty(0))).any())

    @property
    def tokenizer(self) -> str:
        """Its choice, and the size of its vocabulary if that is a setting: `bpe 512`."""
        settings = self.settings or {}
        return f"{_choice(settings.get(f'tokenizer.{TARGET}', '?'))} {settings.get('tokenizer.vocab_size', '')}".strip()

    @property
    def data(self) -> str:
        """The name of its text file, or else its choice."""
        settings = self.settings or {}
        path = settings.get("data.path")
        return Path(path).name if isinstance(path, str) else _choice(settings.get(f"data.{TARGET}", "?"))


Group = tuple[str, list[Run]]
"""A label, and runs that differ in nothing but the seed."""


def find_runs(names: list[str]) -> list[Path]:
    """The run directories that these names are, or that lie below them; each once, in this order.

    Files are skipped: `gptlab compare <sweep>/*` also names the sweep's results.

    Raises:
        UserError: if a name does not exist, or is not a run and holds none.
    """
    found: dict[Path, Path] = {}  # by resolved path
    for name in names:
        place = Path(name).expanduser().absolute()
        runs = [place] if _is_run(place) else _runs_below(place)
        if not runs and not place.is_file():
            what = "neither is a run directory nor holds any" if place.exists() else "does not exist"
            raise UserError(f"{name} {what}")
        found |= {run.resolve(): run for run in runs}
    if not found:
        raise UserError(f"{names[0]} is a file: name run directories, or directories that hold some")
    return list(found.values())


def _runs_below(place: Path) -> list[Path]:
    """Links are followed only to runs, because they may form a loop."""
    below = (Path(directory, name) for directory, names, _ in os.walk(place) for name in names)
    return sorted(directory for directory in below if _is_run(directory))


def _is_run(directory: Path) -> bool:
    """A run that was killed before its first row has only a configuration."""
    return (directory / METRICS).is_file() or read_config(directory) is not None


def differences(runs: Sequence[Run]) -> str:
    """What makes losses per token incomparable: `tokenizers`, `texts`, `tokenizers and texts`, or nothing."""
    keys = incomparable(runs)
    kinds = (("tokenizers", "tokenizer."), ("texts", "data."))
    return " and ".join(what for what, node in kinds if any(key.startswith(node) for key in keys))


def incomparable(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings of tokenizer and data in which runs differ, with their values as overrides give them."""
    configs = [_relevant(run.settings) for run in runs if run.settings is not None]
    keys = {key: None for config in configs for key in config if key.startswith(("tokenizer.", "data."))}
    values = {key: dict.fromkeys(_text(config.get(key)) for config in configs) for key in keys if key != "data.stride"}
    return {key: [*different] for key, different in values.items() if len(different) > 1}


def group(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Group runs that differ only in the seed, and label each group by its differing settings, as overrides.

    If all runs are cases of one sweep, the labels are the cases' names. A label is the directory if nothing differs, if
    too much differs, or if the configuration is not known.

    Returns:
        The groups, and notes on their labels.
    """
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        known_by = f"in {run.directory}" if run.settings is None else repr(sorted(_relevant(run.settings).items()))
        by_settings.setdefault(known_by, []).append(run)
    groups = list(by_settings.values())
    base = common_parent(runs)
    labels = [os.path.relpath(first.directory, base) + (", …" if more else "") for first, *more in groups]
    notes = [
        f"{label}: its config.yaml is missing or damaged, so it is a line of its own"
        for label, (run, *_) in zip(labels, groups, strict=True)
        if run.settings is None
    ]
    configs = {index: _relevant(run.settings) for index, (run, *_) in enumerate(groups) if run.settings is not None}
    cases = [_case(run.directory) for run, *_ in groups]
    are_of_one_sweep = len({run.directory.parent for run in runs}) == 1
    if are_of_one_sweep and len({*cases} - {None}) == len(groups):
        return list(zip(map(str, cases), groups, strict=True)), notes
    keys = _differing([*configs.values()])
    overrides = {index: _label(config, keys) for index, config in configs.items() if keys}
    if len(keys) > MOST_KEYS:
        shown = ", ".join(keys[:MOST_KEYS])
        notes.append(f"the lines are labelled by directory: they differ in {len(keys)} settings ({shown}, ...)")
    elif len({*overrides.values()}) == len(configs):
        labels = [overrides.get(index, label) for index, label in enumerate(labels)]
    return list(zip(labels, groups, strict=True)), notes


def _case(run_dir: Path) -> str | None:
    """The case of a sweep that a trial had, from the sweep's results."""
    try:
        with (run_dir.parent / "results.csv").open(encoding="utf-8", newline="") as file:
            return next((row.get("case") for row in csv.DictReader(file) if row["trial"] == run_dir.name), None)
    except (OSError, KeyError):
        return None


def _relevant(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that may change what is trained; 0.0 becomes 0, since a command line and a yaml may differ in that."""

    def matters(key: str) -> bool:
        top, _, rest = key.partition(".")
        if top == "callbacks":  # another package's may change what is trained, such as an average of weights
            target = settings.get(f"callbacks.{rest.partition('.')[0]}.{TARGET}")
            return target is not None and not str(target).startswith("gptlab.")
        return top != "logger" and key not in IGNORED

    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in settings.items()
        if matters(key) and not (key in BUDGETS and value is None)
    }


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """The keys with several values, except those that follow from others."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [repr(config.get(key, ...)) for config in configs] for key in keys}
    differing = [key for key in keys if len({*values[key]}) > 1]
    at_root = [values[key] for key in differing if "." not in key]
    choices = [key for key in differing if key.endswith(TARGET)]

    def follows(key: str) -> bool:
        """Whether it is filled in from a setting at the root, or exists only with another choice of its group."""
        is_part = any(key != choice and key.startswith(choice.removesuffix(TARGET)) for choice in choices)
        is_part = is_part and key != "data.path"  # no choice of the data has a path of its own
        has_one_value = len({*values[key]} - {repr(...)}) == 1
        return (is_part and has_one_value) or ("." in key and values[key] in at_root)

    return [key for key in differing if not follows(key)]


def _label(config: dict[str, Any], keys: list[str]) -> str:
    """Its values of these keys, as overrides: `optimizer.lr=0.001`, `model/attention=plain` for a class of gptlab's."""
    overrides = []
    for key in keys:
        value, node = config.get(key, ...), key.removesuffix(f".{TARGET}")
        if key != node and str(value).startswith("gptlab."):
            overrides.append(f"{node.replace('.', '/')}={_choice(value)}")
        elif value is not ...:
            overrides.append(f"{key}={_text(value)}")
    return " ".join(overrides) or f"~{keys[0].removesuffix(f'.{TARGET}')}"


def _choice(target: Any) -> str:
    """The name of gptlab's yaml, which is that of a class's file, or of a function; the class name of others."""
    *_, module, name = ["", *str(target).split(".")]
    return module if str(target).startswith("gptlab.") and not name.islower() else name


def _text(value: Any) -> str:
    """A value as an override gives it; a number of more than six digits has four.

    >>> [_text(value) for value in (0.00038271645, 0.99995, None, [0.9, 0.95], "/data/book.txt", "1")]
    ['0.0003827', '0.99995', 'null', '[0.9,0.95]', '/data/book.txt', "'1'"]
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if float(text) == value else f"{value:.4g}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value) if not isinstance(value, str) or BARE.fullmatch(value) else repr(value)


def common_parent(runs: Sequence[Run]) -> Path:
    """The deepest directory that holds all runs."""
    return Path(os.path.commonpath([run.directory.parent for run in runs]))
