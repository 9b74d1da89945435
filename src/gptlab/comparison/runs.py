"""Runs, and where they lie."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.errors import UserError
from gptlab.training.metrics import METRICS
from gptlab.training.run_files import read_config


@dataclass(frozen=True, eq=False)
class Run:
    """A run, as far as it has come.

    Attributes:
        directory: where it lies, absolute.
        settings: of its configuration, by dotted key; None where its config.yaml is not as the run wrote it.
        metrics: the columns of metrics.csv; nan where a step has no value.
    """

    directory: Path
    settings: dict[str, Any] | None
    metrics: dict[str, np.ndarray]


def find_runs(names: list[str]) -> list[Path]:
    """The run directories that these are, or that lie somewhere below them; each once, in this order.

    Files are passed over: `gptlab compare <sweep>/*` names the sweep's results too.

    Raises:
        UserError: where one is not there, or neither is a run nor holds any.
    """
    found: dict[Path, Path] = {}  # by where they really lie
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
    """A run holds no others. Links are followed to runs alone, for they may lead in circles."""
    if _is_run(place):
        yield place
        return
    for directory, names, _ in os.walk(place):
        runs = [name for name in sorted(names) if _is_run(Path(directory, name))]
        yield from (Path(directory, name) for name in runs)
        names[:] = sorted({*names} - {*runs})


def _is_run(directory: Path) -> bool:
    """One that was killed before its first row has a configuration alone."""
    return (directory / METRICS).is_file() or read_config(directory) is not None
