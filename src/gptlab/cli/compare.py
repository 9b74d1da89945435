"""`gptlab compare`: the curves of any runs in one picture, and their results in a table. Imports no Lightning."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from gptlab import build
from gptlab.arguments import nearest
from gptlab.cli.compose import run_command
from gptlab.cli.report import counted, shortened
from gptlab.comparison.labels import group, seeds
from gptlab.comparison.lines import Line, make_lines, series, smoothing
from gptlab.comparison.picture import draw
from gptlab.comparison.runs import Run, find_runs
from gptlab.comparison.table import table
from gptlab.errors import UserError
from gptlab.settings import CompareSettings
from gptlab.training.metrics import COLUMNS, METRICS, read_metrics
from gptlab.training.run_files import read_config

NO_METRICS = {"step", "tokens", "seconds"}


def main(arguments: list[str]) -> int:
    """The exit status of one comparison."""
    return run_command(compare, config_name="compare", arguments=list(_with_directories(arguments)))


def compare(cfg: DictConfig) -> int:
    """Find, read, draw, and print."""
    settings = build.compare_settings(build.resolve(cfg))
    picture = _checked_place(settings.to)
    runs = [_read(directory) for directory in find_runs(settings.directories)]
    column = _column(settings.metric, runs)
    measured = [run for run in runs if len(series(run, column, over=settings.over, window=1).steps)]
    if not measured:
        raise UserError(f"none of the {len(runs)} runs has a {settings.metric} yet: there is nothing to draw")
    groups, notes = group(measured)
    window = smoothing(measured, column)
    lines = make_lines(groups, column, over=settings.over, window=window)
    draw(lines, picture, column=column, over=settings.over, window=window)

    without = [
        f"{shortened(run.directory)} has no {settings.metric} yet: left out" for run in runs if run not in measured
    ]
    for note in [*without, *notes, *_cut_short(lines)]:
        print(note)
    print(f"{counted(len(measured), 'run')}, {counted(len(lines), 'line')}\n")
    for row in table(lines, column, metric=settings.metric):
        print(f"  {row}")
    print(f"\n{shortened(picture)}: {settings.metric} over {settings.over}")
    return 0


def _with_directories(words: list[str]) -> Iterator[str]:
    """`a b over=tokens` as `runs=a runs=b over=tokens`.

    A directory with a `=` in its name, as those of sweeps may have, is known by being there, or by a slash before it.
    """
    flags = [action for action in get_args_parser()._actions if action.nargs is None]
    takes_a_value = {name for flag in flags for name in flag.option_strings}
    settings = {field.name for field in fields(CompareSettings)}
    before = ""
    for word in words:
        key, equals, _ = word.partition("=")
        is_directory = not equals or "/" in key or (key not in settings and Path(word).is_dir())
        is_directory = is_directory and not word.startswith("-") and before not in takes_a_value
        yield f"runs={word}" if is_directory else word
        before = word


def _checked_place(to: str) -> Path:
    """Where the picture goes. Raises UserError where it cannot."""
    picture = Path(to).expanduser().absolute()
    if picture.is_dir():
        raise UserError(f"to={to} is a directory: name the picture in it")
    if not picture.parent.is_dir():
        raise UserError(f"to={to}: there is no directory {picture.parent}")
    return picture


def _read(directory: Path) -> Run:
    config = read_config(directory)
    metrics = {name: np.array(values) for name, values in read_metrics(directory / METRICS).items()}
    return Run(directory, dict(build.leaves(config)) if config is not None else None, metrics)


def _column(metric: str, runs: list[Run]) -> str:
    """The column of metrics.csv that a metric names. Raises UserError where there is none."""
    columns = dict.fromkeys([*COLUMNS, *(name for run in runs for name in run.metrics)])
    by_name = {name.replace("/", "_"): name for name in columns if name not in NO_METRICS}
    wanted = metric.replace("/", "_")
    if wanted not in by_name:
        raise UserError(f"metric={metric} is none of {', '.join(by_name)}{nearest(wanted, by_name)}")
    return by_name[wanted]


def _cut_short(lines: list[Line]) -> Iterator[str]:
    """Of lines whose runs have different steps, as where one was interrupted."""
    for line in lines:
        if not line.has_all:
            ends = sorted(int(its.steps[-1]) for its in line.series)
            yield (
                f"{line.label}: its {seeds(line.runs)} end at steps {ends[0]:,} to {ends[-1]:,}; "
                f"the mean is over the {len(line.steps):,} steps that all have, thin lines show each"
            )
