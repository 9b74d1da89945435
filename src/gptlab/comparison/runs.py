"""Runs on disk, grouped and labelled by the settings in which they differ."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.errors import UserError
from gptlab.training.metrics import METRICS
from gptlab.training.run_files import read_config

Settings = dict[str, Any]

IGNORED = {
    *("seed", "run_dir", "resume", "check_device", "save_every", "validate_every"),
    *("data.num_workers", "data.cache_dir"),
}
"""Settings that do not change what is trained, and the seed. Loggers and gptlab's callbacks are ignored too."""
SAME_TEXT = {"data.num_workers", "data.cache_dir", "data.stride"}
"""Settings of the data that do not change which text a run is validated on."""
COPIES = {"schedule.total_steps": "max_steps"}
"""Settings that conf/ fills in from one at the root with another name."""
TARGET = "_target_"
MOST_KEYS = 6
"""Groups that differ in more settings, such as two experiments, are labelled by directory."""
MOST_DIRECTORIES = 3
BARE = re.compile(r"(?!(null|true|false|nan|inf|infinity)$)[a-z_/~][\w/.~-]*", re.IGNORECASE)
"""Text that an override gives without quotes."""


@dataclass(frozen=True, eq=False)
class Run:
    """A run so far.

    Attributes:
        directory: its absolute path.
        settings: its configuration by dotted key; None if config.yaml is missing or damaged.
        metrics: the columns of metrics.csv; nan for a step without a value.
    """

    directory: Path
    settings: Settings | None
    metrics: dict[str, np.ndarray]

    def has(self, column: str) -> bool:
        """Whether it has a value of this metric."""
        return bool(np.isfinite(self.metrics.get(column, np.empty(0))).any())

    @property
    def tokenizer(self) -> str:
        """Its choice, and the size of its vocabulary if that is a setting: `bpe 512`."""
        settings = self.settings or {}
        words = _choice(settings.get(f"tokenizer.{TARGET}", "?")), settings.get("tokenizer.vocab_size")
        return " ".join(str(word) for word in words if word is not None)

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
        if not place.exists():
            raise UserError(f"{name} is not there: name run directories, or directories that hold some")
        runs = list(_runs_in(place))
        if not runs and place.is_dir():
            raise UserError(f"{name} neither is a run directory nor holds any")
        for run in runs:
            found.setdefault(run.resolve(), run)
    if not found:
        raise UserError(f"{names[0]} is a file: name run directories, or directories that hold some")
    return list(found.values())


def _runs_in(place: Path) -> Iterator[Path]:
    """Runs are not searched for further runs. Links are followed only to runs, because they may form a loop."""
    if _is_run(place):
        yield place
        return
    for directory, names, _ in os.walk(place):
        runs = [name for name in sorted(names) if _is_run(Path(directory, name))]
        yield from (Path(directory, name) for name in runs)
        names[:] = sorted({*names} - {*runs})


def _is_run(directory: Path) -> bool:
    """A run that was killed before its first row has only a configuration."""
    return (directory / METRICS).is_file() or read_config(directory) is not None


def differences(runs: Sequence[Run]) -> str:
    """What makes losses per token incomparable: `tokenizers`, `texts`, `tokenizers and texts`, or nothing."""
    different = []
    for what, node in (("tokenizers", "tokenizer."), ("texts", "data.")):
        nodes = [
            {key: value for key, value in run.settings.items() if key.startswith(node) and key not in SAME_TEXT}
            for run in runs
            if run.settings is not None
        ]
        if any(other != nodes[0] for other in nodes):
            different.append(what)
    return " and ".join(different)


def group(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Group runs that differ only in the seed, and label each group by its differing settings, as overrides.

    A label is the directory if nothing differs, if too much differs, or if the configuration is not known.

    Returns:
        The groups, and notes on their labels.
    """
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        known_by = f"in {run.directory}" if run.settings is None else repr(sorted(_relevant(run.settings).items()))
        by_settings.setdefault(known_by, []).append(run)
    groups = list(by_settings.values())
    labels = _directory_labels(groups)
    notes = [
        f"{label}: its config.yaml is missing or damaged, so it is a line of its own"
        for label, (run, *_) in zip(labels, groups, strict=True)
        if run.settings is None
    ]
    configs = {index: _relevant(run.settings) for index, (run, *_) in enumerate(groups) if run.settings is not None}
    keys = _differing([*configs.values()])
    if len(keys) > MOST_KEYS:
        shown = ", ".join(keys[:MOST_KEYS])
        notes.append(f"the lines are labelled by directory: they differ in {len(keys)} settings ({shown}, ...)")
    elif keys:
        for index, label in zip(configs, _labels([*configs.values()], keys), strict=True):
            labels[index] = label
    return list(zip(labels, groups, strict=True)), notes


def seeds(runs: Sequence[Run]) -> str:
    """`3 seeds`, or `2 runs` if a seed occurs twice; empty for a single run."""
    different = {run.settings.get("seed") for run in runs if run.settings is not None}
    return "" if len(runs) == 1 else f"{len(runs)} {'seeds' if len(different) == len(runs) else 'runs'}"


def _relevant(settings: Settings) -> Settings:
    """Settings that may change what is trained; 0.0 becomes 0, since a command line and a yaml may differ in that."""

    def matters(key: str) -> bool:
        top, _, rest = key.partition(".")
        if top == "logger" or key in IGNORED:
            return False
        if top == "callbacks":  # another package's may change what is trained, such as an average of weights
            target = settings.get(f"callbacks.{rest.partition('.')[0]}.{TARGET}")
            return target is not None and not str(target).startswith("gptlab.")
        name = key.rpartition(".")[2]
        return name == TARGET or not name.startswith("_")

    def normal(value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return {key: normal(value) for key, value in settings.items() if matters(key)}


def _differing(configs: list[Settings]) -> list[str]:
    """The keys with several values, except those that follow from others."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [repr(config.get(key, ...)) for config in configs] for key in keys}
    differing = [key for key in keys if len({*values[key]}) > 1]
    targets = [key for key in differing if key.rpartition(".")[2] == TARGET]

    def follows(key: str) -> bool:
        root = COPIES.get(key, key.rpartition(".")[2])
        if root != key and values[key] == values.get(root):
            return True  # an interpolation of a setting at the root
        if len({*values[key]} - {repr(...)}) > 1:
            return False
        of_another = (t for t in targets if t != key and key.startswith(t.removesuffix(TARGET)))
        return any(len({*zip(values[t], values[key], strict=True)}) == len({*values[t]}) for t in of_another)

    return [key for key in differing if not follows(key)]


def _labels(configs: list[Settings], keys: list[str]) -> list[str]:
    """One label for each configuration: its values of these keys as overrides, short if that tells them apart."""
    labels: list[str] = []
    for is_short in (True, False):
        overrides = [[_override(key, config[key], is_short) for key in keys if key in config] for config in configs]
        labels = [" ".join(several) or f"~{keys[0].removesuffix(f'.{TARGET}')}" for several in overrides]
        if len({*labels}) == len(labels):
            break
    return labels


def _override(key: str, value: Any, is_short: bool) -> str:
    """`optimizer.lr=0.001`; in short, a class of gptlab's is its choice: `model/attention=plain`."""
    if key.endswith(TARGET) and str(value).startswith("gptlab.") and is_short:
        return f"{key.removesuffix(f'.{TARGET}').replace('.', '/')}={_choice(value)}"
    return f"{key}={_text(value, is_short)}"


def _choice(target: Any) -> str:
    """The name of gptlab's yaml, which is that of a class's file, or of a function; the class name of others."""
    *_, module, name = ["", *str(target).split(".")]
    return module if str(target).startswith("gptlab.") and not name.islower() else name


def _text(value: Any, is_short: bool) -> str:
    """A value as an override gives it; in short, a number of more than six digits has four.

    >>> [_text(value, True) for value in (0.00038271645, 0.99995, None, [0.9, 0.95], "/data/book.txt", "1")]
    ['0.0003827', '0.99995', 'null', '[0.9,0.95]', '/data/book.txt', "'1'"]
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        text = f"{value:.6g}"
        return text if float(text) == value else f"{value:.4g}" if is_short else repr(value)
    if isinstance(value, list):
        return f"[{','.join(_text(item, is_short) for item in value)}]"
    return str(value) if not isinstance(value, str) or BARE.fullmatch(value) else repr(value)


def _directory_labels(groups: list[list[Run]]) -> list[str]:
    """The directories of each group's runs, relative to their common parent."""
    base = common_parent([run for runs in groups for run in runs])
    names = [[os.path.relpath(run.directory, base) for run in runs] for runs in groups]
    return [", ".join(some[:MOST_DIRECTORIES]) + (", …" if len(some) > MOST_DIRECTORIES else "") for some in names]


def common_parent(runs: Sequence[Run]) -> Path:
    """The deepest directory that holds all runs."""
    return Path(os.path.commonpath([run.directory.parent for run in runs]))
