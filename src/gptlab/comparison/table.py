"""The lines of the picture as rows for a terminal."""

from collections.abc import Sequence

import numpy as np

from gptlab.comparison.lines import Line, smaller_is_better
from gptlab.comparison.numbers import decimals
from gptlab.training.drawing import short

DIGITS = 5


def table(lines: Sequence[Line], column: str, *, metric: str) -> list[str]:
    """A header and a row for each line: of how many runs it is, its end, its best, and what it took."""
    header = ["", "runs", metric, "", "best", "", "at step", "steps", "tokens", "seconds"]
    behind = decimals(lines[0].mean[-1], digits=DIGITS)
    rows = [header, *(_row(line, column, behind) for line in lines)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    aligned = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return ["  ".join(filter(None, row)) for row in aligned]  # no column of spreads where there are none


def _row(line: Line, column: str, behind: int) -> list[str]:
    best = int(line.mean.argmin() if smaller_is_better(column) else line.mean.argmax())
    seconds = _at_end(line, "seconds")
    return [
        line.label,
        str(len(line.runs)),
        *line.texts(-1, behind=behind),
        *line.texts(best, behind=behind),
        f"{int(line.steps[best]):,}",
        f"{int(line.steps[-1]):,}",
        short(_at_end(line, "tokens")),
        f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}",
    ]


def _at_end(line: Line, column: str) -> float:
    """A column where the line ends, as a mean over its runs; nan where they do not have it."""
    values = []
    for run in line.runs:
        there = run.metrics["step"] <= line.steps[-1]
        values.append(run.metrics.get(column, np.full(len(there), np.nan))[there][-1])
    return float(np.mean(values))
