"""The metrics of groups of runs as lines: means over seeds, drawn in one picture and printed as a table."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab.comparison.runs import Group, Run
from gptlab.inspection.drawing import FAINT, font, label
from gptlab.training.drawing import frame, log_scale, running_mean, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WINDOW = 100
"""Rows of a running mean, as for train_loss in summary.json; fewer in short runs, more in very long ones."""
SMALLER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")
BITS_PER_BYTE = "val/bits_per_byte"

NAMED = ("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Colours of the best lines, distinct for colour-blind eyes and in grey (Petroff 2021, arXiv:2107.02270)."""
OTHERS = "#b5bcc4"
THICK, THIN = 1.9, 0.8
WIDTH, HEIGHT, DPI = 8.2, 5.2, 130  # of the curves, in inches; the legend is added below
LONGEST_LABEL, LONGEST_FLOOR = 100, 50
DIGITS = 5
MARKED = 30
"""Lines of up to this many points have a marker at each."""
LEAST_SPAN = 0.02
"""Height of the picture at least, as a share of the values: smaller differences are noise."""
Y_LABELS = {
    "train/loss": "training loss, nats per {unit}",
    "val/loss": "validation loss, nats per {unit}",
    "val/perplexity": "validation perplexity",
    BITS_PER_BYTE: "validation loss, bits per byte",
}


@dataclass(frozen=True, eq=False)
class Line:
    """A line of the picture: a metric of one run, or its mean over several.

    Attributes:
        label, runs: of its group.
        steps, x, mean: (n,), at the steps that all runs have; `x` is the mean of theirs.
        spread: (n,), the standard deviation over the runs (n - 1); None for a single run.
        members: the line of each run.
    """

    label: str
    runs: Sequence[Run]
    steps: np.ndarray
    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray | None = None
    members: "Sequence[Line]" = ()

    @property
    def is_causal(self) -> bool:
        return all(run.is_causal for run in self.runs)

    @property
    def band(self) -> np.ndarray:
        """One spread below and above the mean, (2, n)."""
        spread = 0.0 if self.spread is None else np.nan_to_num(self.spread, posinf=0.0)
        return np.stack([self.mean - spread, self.mean + spread])

    @property
    def has_all(self) -> bool:
        """Whether the mean covers every value of its runs."""
        return all(len(member.steps) == len(self.steps) for member in self.members)

    def at_end(self, column: str) -> float:
        """The last value of a column up to the line's end, as a mean over its runs; nan if a run has none."""
        values = []
        for run in self.runs:
            known = (run.metrics["step"] <= self.steps[-1]) & np.isfinite(run.metrics.get(column, np.nan))
            values.append(run.metrics[column][known][-1] if known.any() else math.nan)
        return float(np.mean(values))


def smoothing(runs: Sequence[Run], column: str) -> int:
    """Rows of the running mean, the same for all lines so that they compare; 1 for metrics without noise."""
    if column.startswith("val/") or column == "lr":
        return 1
    n = int(np.median([np.isfinite(run.metrics[column]).sum() for run in runs]))
    return max(1, min(WINDOW, n // 10), n // 100)


def make_lines(groups: Sequence[Group], column: str, *, over: str, window: int) -> list[Line]:
    """A line for each group, best last value first; models that are not causal come last.

    Runs of a group without a common step are lines of their own.

    Args:
        groups: labelled runs.
        column: of metrics.csv.
        over: steps, tokens or seconds.
        window: rows of the running mean.
    """
    lines = []
    for name, runs in groups:
        members = [_line(run, column, over, window) for run in runs]
        line = _mean(name, members)
        alone = [replace(its, label=f"{name} ({its.label})") for its in members if len(its.steps)]
        lines += [line] if len(line.steps) else alone
    sign = 1.0 if column.endswith(SMALLER_IS_BETTER) else -1.0
    return sorted(lines, key=lambda line: (not line.is_causal, sign * line.mean[-1]))


def _line(run: Run, column: str, over: str, window: int) -> Line:
    steps, y = run.metrics["step"], run.metrics[column]
    x = steps if over == "steps" else run.metrics.get(over, np.full(len(steps), np.nan))
    x = np.where(steps == 0, 0.0, x)  # loaded weights are measured at step 0
    known = np.isfinite(y) & np.isfinite(x)
    return Line(run.directory.name, [run], steps[known], x[known], running_mean(y[known], window))


def _mean(name: str, members: Sequence[Line]) -> Line:
    """The mean over the steps that all runs have; nothing is interpolated."""
    steps = functools.reduce(np.intersect1d, [its.steps for its in members])
    common = [np.isin(its.steps, steps) for its in members]
    x = np.stack([its.x[there] for its, there in zip(members, common, strict=True)])  # (runs, n)
    y = np.stack([its.mean[there] for its, there in zip(members, common, strict=True)])
    with np.errstate(over="ignore"):  # perplexities of diverged runs go up to 1e304
        spread = y.std(axis=0, ddof=1) if len(members) > 1 else None
    return Line(name, [its.runs[0] for its in members], steps, x.mean(axis=0), y.mean(axis=0), spread, members)


def table(lines: Sequence[Line], column: str, *, metric: str) -> list[str]:
    """A header and a row for each line: its runs, tokenizer and data, its last and its best value, and its cost."""
    decimals = decimals_for(lines[0].mean[-1])
    header = ["", "runs", "tokenizer", "data", metric, "best", "at step", "bits/byte", "steps", "tokens", "seconds"]
    rows = [header]
    for line in lines:
        best = int((line.mean if column.endswith(SMALLER_IS_BETTER) else -line.mean).argmin())
        bits_per_byte = line.at_end(BITS_PER_BYTE)
        name = line.label + ("" if line.is_causal else " (not causal)")
        row = [name, str(len(line.runs)), line.runs[0].tokenizer, line.runs[0].data, _last_value(line, decimals)]
        row += [number(line.mean[best], decimals), f"{line.steps[best]:,.0f}"]
        row += ["-" if math.isnan(bits_per_byte) else f"{bits_per_byte:.4f}", f"{line.steps[-1]:,.0f}"]
        rows.append([*row, short(line.at_end("tokens")), f"{line.at_end('seconds'):,.0f}"])
    columns = []
    for name, cells in zip(header, zip(*rows, strict=True), strict=True):
        justify = str.ljust if name in ("", "tokenizer", "data", metric) else str.rjust
        columns.append([justify(cell, max(map(len, cells))) for cell in cells])
    return ["  ".join(cells) for cells in zip(*columns, strict=True)]


def _last_value(line: Line, decimals: int) -> str:
    """Mean and spread at the end: `4.2130 ± 0.0120`."""
    spread = "" if line.spread is None else f" ± {number(line.spread[-1], decimals)}"
    return number(line.mean[-1], decimals) + spread


def decimals_for(value: float) -> int:
    """How many decimals show DIGITS digits of this value."""
    return max(0, DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else DIGITS - 1


def number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e6 else f"{value:.4g}"


def draw(
    lines: Sequence[Line],
    picture: Path,
    *,
    column: str,
    over: str,
    window: int,
    caveat: str,
    floors: dict[str, float],
) -> None:
    """Draw the lines, best first, with a legend below them.

    Args:
        lines, column, over, window: as `make_lines` has them.
        picture: the file.
        caveat: what readers should keep in mind.
        floors: losses that need no training, by name; drawn as dashed lines.
    """
    from matplotlib import rc_context  # half a second: only commands that draw pay
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    axes = figure.subplots()
    decimals = decimals_for(lines[0].mean[-1])
    for rank, line in reversed([*enumerate(lines)]):  # the best on top
        count = f" ({len(line.runs)} runs)" if len(line.runs) > 1 else ""
        mark = "" if line.is_causal else ", not causal: it sees the tokens it is asked for"
        entry = f"{_last_value(line, decimals)}  {label(line.label, LONGEST_LABEL)}{count}{mark}"
        if rank < len(NAMED):
            _draw_line(axes, line, NAMED[rank], entry)
        else:
            entry = f"{len(lines) - rank} more" if rank == len(NAMED) else "_"  # matplotlib leaves this one out
            axes.plot(line.x, line.mean, color=OTHERS, linewidth=THIN, label=entry, zorder=2)
    axes.set_xlabel({"steps": "optimizer steps"}.get(over, over))
    units = " or ".join(sorted({run.unit for line in lines for run in line.runs}))
    what = Y_LABELS.get(column, column).format(unit=units)
    axes.set_ylabel(what + (f", mean of {window} steps" if window > 1 else ""))
    axes.set_xlim(0, 1.03 * max(its.x[-1] for line in lines for its in (line, *line.members)) or None)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    _limit_height(axes, [line for line in lines if line.is_causal] or lines, column)
    if column.endswith("perplexity"):
        log_scale(axes)
    _draw_floors(axes, floors)
    frame(axes)
    axes.set_title(caveat, loc="left", fontsize="small", color=FAINT)
    title = "last value" + (" ± one standard deviation" if any(line.spread is not None for line in lines) else "")
    handles, texts = axes.get_legend_handles_labels()
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.1), "frameon": False, "alignment": "left"}
    legend = axes.legend(handles[::-1], texts[::-1], title=title, **below)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set(**font(8.5))
    with rc_context({"savefig.bbox": "tight"}):  # as large as the legend needs
        save(figure, picture)


def _draw_floors(axes: "Axes", floors: dict[str, float]) -> None:
    """Dashed lines within the picture, with their names on the right of it, where no curve is."""
    for name, value in floors.items():
        axes.axhline(value, color=FAINT, linewidth=THIN, linestyle=(0, (5, 4)), zorder=1)
        coordinates, look = ("axes fraction", "data"), font(8.5, FAINT, va="center")
        axes.annotate(label(name, LONGEST_FLOOR), (1.01, value), xycoords=coordinates, **look)
    low, high = axes.get_ylim()
    axes.set_ylim(min([low, *(value - 0.03 * (high - low) for value in floors.values())]), high)


def _draw_line(axes: "Axes", line: Line, color: str, entry: str) -> None:
    """The mean with a band of its spread, or a point with an error bar; the runs too if their steps differ.

    A model that is not causal has a dotted line.
    """
    if line.spread is not None:
        axes.fill_between(line.x, *line.band, color=color, alpha=0.18, linewidth=0, zorder=2)
        if len(line.x) == 1:
            axes.errorbar(line.x, line.mean, line.spread, color=color, capsize=4, linewidth=THICK, zorder=2)
    for its in () if line.has_all else line.members:
        axes.plot(its.x, its.mean, color=color, linewidth=THIN, alpha=0.7, zorder=2)
    points: dict[str, Any] = {"marker": "o", "markersize": 4, "markevery": None if len(line.x) <= MARKED else [-1]}
    style = "-" if line.is_causal else ":"
    axes.plot(line.x, line.mean, style, color=color, linewidth=THICK, label=entry, zorder=3, **points)


def _limit_height(axes: "Axes", lines: Sequence[Line], column: str) -> None:
    """Limit the y axis of a falling metric to its values after the first tenth, so that differences show.

    Lines that end above where they began get at most twice the range of the others.
    """
    if not column.endswith(SMALLER_IS_BETTER):
        return
    end = max(line.x[-1] for line in lines)
    tails = [line.band[:, (line.x >= 0.1 * end) | (line.x == line.x[-1])] for line in lines]
    ranges = [(tail.min(), min(tail.max(), 1e100)) for tail in tails]  # axes end at 1e308
    learning = [its for line, its in zip(lines, ranges, strict=True) if line.mean[-1] <= line.mean[0]] or ranges
    low = min(lowest for lowest, _ in ranges)
    most, high = (max(highest for _, highest in some) for some in (learning, ranges))
    top = min(high, low + 2 * (most - low)) if most > low else high
    missing = max(0.0, LEAST_SPAN * abs(top) - (top - low)) / 2
    axes.dataLim.intervaly = low - missing, top + missing
    axes.margins(y=0.06)
    axes.autoscale_view(scalex=False)
    if max(line.mean.max() for line in lines) > axes.get_ylim()[1]:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.99, 0.99, "higher values are cut off", color=FAINT, fontsize="small", **place)
