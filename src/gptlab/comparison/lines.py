"""From the metrics of runs to the lines of a picture: each the mean over runs that differ in nothing but the seed."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptlab.comparison.labels import Group
from gptlab.comparison.numbers import number, plus_minus
from gptlab.comparison.runs import Run
from gptlab.training.drawing import running_mean

WINDOW = 100
"""Rows of a running mean, as of train_loss in summary.json; less in short runs, and more in very long ones."""
SMALLER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")
COLUMN = {"steps": "step", "tokens": "tokens", "seconds": "seconds"}


@dataclass(frozen=True, eq=False)
class Series:
    """A metric of one run: at each of n steps its value, and where on the axis that lies; all (n,)."""

    steps: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class Line:
    """A line of the picture.

    Attributes:
        label: what sets it apart.
        runs: of which it is the mean.
        series: of each run.
        steps, x, mean: (n,), at the steps that all its runs have; `x` is the mean of theirs.
        spread: (n,), one standard deviation over the runs (of a sample: n - 1); None of a single run.
    """

    label: str
    runs: Sequence[Run]
    series: Sequence[Series]
    steps: np.ndarray
    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray | None

    def texts(self, index: int, *, behind: int) -> tuple[str, str]:
        """Mean and spread there, with so many decimals: `4.213`, `± 0.012`."""
        spread = None if self.spread is None else self.spread[index]
        return number(self.mean[index], behind=behind), plus_minus(spread, behind=behind)

    @property
    def has_all(self) -> bool:
        """Whether every value of its runs is in the mean: none has steps that another lacks."""
        return all(len(series.steps) == len(self.steps) for series in self.series)


def smaller_is_better(column: str) -> bool:
    return column.endswith(SMALLER_IS_BETTER)


def smoothing(runs: Sequence[Run], column: str) -> int:
    """Rows of the running mean in which all lines are drawn: the same for each, or they would not compare.

    Validations are few and exact, and a learning rate has no noise: of these every value is drawn.
    """
    if column.startswith("val/") or column == "lr":
        return 1
    rows = [np.isfinite(run.metrics[column]).sum() for run in runs if column in run.metrics]
    n = int(np.median(rows)) if rows else 0
    return max(1, min(WINDOW, n // 10), n // 100)


def series(run: Run, column: str, *, over: str, window: int) -> Series:
    """A metric of a run; empty where it has no value of it yet.

    Args:
        run: as it was read.
        column: of metrics.csv.
        over: steps, tokens or seconds.
        window: rows of the running mean.
    """
    nothing = np.full(len(run.metrics.get("step", ())), np.nan)
    steps, y = run.metrics.get("step", nothing), run.metrics.get(column, nothing)
    x = np.where(steps == 0, 0.0, run.metrics.get(COLUMN[over], nothing))  # loaded weights are measured at step 0
    there = np.isfinite(y) & np.isfinite(x)
    steps, x, y = steps[there], x[there], y[there]
    newest = len(steps) - 1 - np.unique(steps[::-1], return_index=True)[1]  # a step is there twice in a damaged file
    return Series(steps[newest], x[newest], running_mean(y[newest], window))


def make_lines(groups: Sequence[Group], column: str, *, over: str, window: int) -> list[Line]:
    """A line for each group, best end first.

    Runs of a group that have no step in common, as where they validate at different ones, are lines of their own.
    """
    lines = []
    for label, runs in groups:
        whole = _line(label, runs, [series(run, column, over=over, window=window) for run in runs])
        if len(whole.steps):
            lines.append(whole)
        else:
            several = zip(runs, whole.series, strict=True)
            lines.extend(_line(f"{label} ({run.directory.name})", [run], [its]) for run, its in several)
    sign = 1.0 if smaller_is_better(column) else -1.0
    return sorted(lines, key=lambda line: sign * line.mean[-1])


def _line(label: str, runs: Sequence[Run], several: Sequence[Series]) -> Line:
    """Nothing is interpolated, and nothing goes on behind the step at which the first of the runs ends."""
    steps = functools.reduce(np.intersect1d, [its.steps for its in several])
    of_all = [np.isin(its.steps, steps) for its in several]
    x = np.stack([its.x[there] for its, there in zip(several, of_all, strict=True)])  # (runs, n)
    y = np.stack([its.y[there] for its, there in zip(several, of_all, strict=True)])
    with np.errstate(over="ignore"):  # perplexities of runs that flew away go up to 1e304
        spread = y.std(axis=0, ddof=1) if len(runs) > 1 else None
    return Line(label, runs, several, steps, x.mean(axis=0), y.mean(axis=0), spread)
