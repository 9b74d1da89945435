"""The metrics of groups of runs as lines: means over seeds, drawn in one picture and printed as a table."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gptlab.comparison.runs import Group, Run, seeds
from gptlab.inspection.drawing import FAINT, font, label
from gptlab.training.drawing import EVEN, frame, log_scale, running_mean, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW = 100
"""Rows of a running mean, as for train_loss in summary.json; fewer in short runs, more in very long ones."""
SMALLER_IS_BETTER = ("loss", "perplexity", "bits_per_byte")
BITS_PER_BYTE = "val/bits_per_byte"

NAMED = ("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Colours of the best lines, distinct for colour-blind eyes and in grey (Petroff 2021, arXiv:2107.02270)."""
DARKEST, LIGHTEST = 0.55, 0.25  # greys of the other lines, best to last, on matplotlib's scale
WIDTH, HEIGHT, DPI = 8.2, 5.2, 130  # of the curves, in inches; the legend is added to the width
LEGEND_SIZE, CHARACTER, MARGIN = 8.5, 0.0735, 0.6  # points; inches of a character, and of all around the text
THICK, THIN = 1.9, 0.8
LONGEST_LABEL = 80
DIGITS = 5
MARKED = 30
"""Lines of up to this many points have a marker at each."""
LEAST_SPAN = 0.02
"""Height of the picture at least, as a share of the values: smaller differences are noise."""
Y_LABELS = {
    "train/loss": "training loss, nats per token",
    "val/loss": "validation loss, nats per token",
    "val/perplexity": "validation perplexity",
    BITS_PER_BYTE: "validation loss, bits per byte",
    **{"lr": "learning rate", "grad_norm": "gradient norm", "tokens_per_second": "tokens per second"},
}


class Series(NamedTuple):
    """A metric of one run: its steps, where they lie on the x axis, and its values; all (n,)."""

    steps: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class Line:
    """A line of the picture: the mean over runs.

    Attributes:
        label, runs: of its group.
        series: one for each run.
        steps, x, mean: (n,), at the steps that all runs have; `x` is the mean of theirs.
        spread: (n,), the standard deviation over the runs (n - 1); None for a single run.
    """

    label: str
    runs: Sequence[Run]
    series: Sequence[Series]
    steps: np.ndarray
    x: np.ndarray
    mean: np.ndarray
    spread: np.ndarray | None

    @property
    def has_all(self) -> bool:
        """Whether the mean covers every value of its runs."""
        return all(len(series.steps) == len(self.steps) for series in self.series)

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
    rows = [np.isfinite(run.metrics[column]).sum() for run in runs if column in run.metrics]
    n = int(np.median(rows)) if rows else 0
    return max(1, min(WINDOW, n // 10), n // 100)


def make_lines(groups: Sequence[Group], column: str, *, over: str, window: int) -> list[Line]:
    """A line for each group, best last value first. Runs of a group without a common step are lines of their own.

    Args:
        groups: labelled runs.
        column: of metrics.csv.
        over: steps, tokens or seconds.
        window: rows of the running mean.
    """
    lines = []
    for name, runs in groups:
        line = _line(name, runs, [_series(run, column, over, window) for run in runs])
        if len(line.steps):
            lines.append(line)
        else:
            several = zip(runs, line.series, strict=True)
            lines += [_line(f"{name} ({run.directory.name})", [run], [its]) for run, its in several if len(its.steps)]
    sign = 1.0 if column.endswith(SMALLER_IS_BETTER) else -1.0
    return sorted(lines, key=lambda line: sign * line.mean[-1])


def _series(run: Run, column: str, over: str, window: int) -> Series:
    steps, y = run.metrics["step"], run.metrics[column]
    x = steps if over == "steps" else run.metrics.get(over, np.full(len(steps), np.nan))
    x = np.where(steps == 0, 0.0, x)  # loaded weights are measured at step 0
    known = np.isfinite(y) & np.isfinite(x)
    steps, x, y = steps[known], x[known], y[known]
    return Series(steps, x, running_mean(y, window))


def _line(name: str, runs: Sequence[Run], several: Sequence[Series]) -> Line:
    """The mean over the steps that all runs have; nothing is interpolated."""
    steps = functools.reduce(np.intersect1d, [its.steps for its in several])
    common = [np.isin(its.steps, steps) for its in several]
    x = np.stack([its.x[there] for its, there in zip(several, common, strict=True)])  # (runs, n)
    y = np.stack([its.y[there] for its, there in zip(several, common, strict=True)])
    with np.errstate(over="ignore"):  # perplexities of diverged runs go up to 1e304
        spread = y.std(axis=0, ddof=1) if len(runs) > 1 else None
    return Line(name, runs, several, steps, x.mean(axis=0), y.mean(axis=0), spread)


def table(lines: Sequence[Line], column: str, *, metric: str) -> list[str]:
    """A header and a row for each line: its runs, tokenizer and data, its last and its best value, and its cost."""
    decimals = _decimals(lines[0].mean[-1])
    rows = []
    for line in lines:
        best = int((line.mean if column.endswith(SMALLER_IS_BETTER) else -line.mean).argmin())
        bits_per_byte = line.at_end(BITS_PER_BYTE)
        row = {"": line.label, "runs": str(len(line.runs))}
        row |= {"tokenizer": line.runs[0].tokenizer, "data": line.runs[0].data}
        row |= {metric: _last_value(line, decimals)}
        row |= {"best": _number(line.mean[best], decimals), "at step": f"{line.steps[best]:,.0f}"}
        row |= {"bits/byte": "-" if math.isnan(bits_per_byte) else f"{bits_per_byte:.4f}"}
        row |= {"steps": f"{line.steps[-1]:,.0f}", "tokens": short(line.at_end("tokens"))}
        rows.append(row | {"seconds": f"{line.at_end('seconds'):,.0f}"})
    columns = []
    for name in rows[0]:
        cells = [name, *(row[name] for row in rows)]
        justify = str.ljust if name in ("", "tokenizer", "data", metric) else str.rjust
        columns.append([justify(cell, max(map(len, cells))) for cell in cells])
    return ["  ".join(cells) for cells in zip(*columns, strict=True)]


def _last_value(line: Line, decimals: int) -> str:
    """Mean and spread at the end: `4.2130 ± 0.0120`."""
    spread = "" if line.spread is None else f" ± {_number(line.spread[-1], decimals)}"
    return _number(line.mean[-1], decimals) + spread


def _decimals(value: float) -> int:
    """How many decimals show DIGITS digits of this value."""
    return max(0, DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else DIGITS - 1


def _number(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}" if abs(value) < 1e6 else f"{value:.4g}"


def draw(lines: Sequence[Line], picture: Path, *, column: str, over: str, window: int, caveat: str) -> None:
    """Draw the lines, with a legend beside them that has the best on top.

    Args:
        lines: best first.
        picture: its file; the ending of its name is the format.
        column, over, window: as of the lines.
        caveat: what to keep in mind in reading it; may be empty.
    """
    from matplotlib.figure import Figure  # half a second: only commands that draw pay
    from matplotlib.ticker import MaxNLocator

    title = "last value" + (" ± one standard deviation" if any(line.spread is not None for line in lines) else "")
    entries = _entries(lines)
    width = WIDTH + MARGIN + CHARACTER * max(map(len, (title, *entries)))
    figure = Figure(figsize=(width, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    longest = max(its.x[-1] for line in lines for its in line.series)
    unit = 60.0 if over == "seconds" and longest > 600 else 1.0
    styles = _styles(len(lines))
    for line, style in reversed([*zip(lines, styles, strict=True)]):  # the best on top
        _draw_line(axes, line, unit, style)
    axes.set_xlabel({"steps": "optimizer steps"}.get(over, over) if unit == 1.0 else "minutes")
    axes.set_ylabel(Y_LABELS.get(column, column) + (f", mean of {window} steps" if window > 1 else ""))
    axes.set_xlim(0, 1.03 * longest / unit or None)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=EVEN, integer=over != "seconds"))
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.ticklabel_format(axis="y", useOffset=False)
    _limit_height(axes, lines, column)
    frame(axes)
    axes.set_title(caveat, loc="left", fontsize="small", color=FAINT)
    _draw_legend(figure, title, entries, styles)
    save(figure, picture)


def _styles(n: int) -> list[dict[str, Any]]:
    from matplotlib import colormaps

    named = [{"color": color, "linewidth": THICK} for color in NAMED[:n]]
    shades = colormaps["Greys"](np.linspace(DARKEST, LIGHTEST, max(0, n - len(NAMED))))
    return [*named, *({"color": shade, "linewidth": THIN} for shade in shades)]


def _draw_line(axes: "Axes", line: Line, unit: float, style: dict[str, Any]) -> None:
    """The mean with a band of its spread, or a point with an error bar; the runs too if their steps differ."""
    x, mean = line.x / unit, line.mean
    color, is_thick = style["color"], style["linewidth"] == THICK
    if line.spread is not None and is_thick:
        axes.fill_between(x, mean - line.spread, mean + line.spread, color=color, alpha=0.18, linewidth=0, zorder=2)
        if len(x) == 1:
            axes.errorbar(x, mean, line.spread, color=color, capsize=4, linewidth=THICK, zorder=2)
    for its in () if line.has_all else line.series:
        axes.plot(its.x / unit, its.y, color=color, linewidth=THIN, alpha=0.7, zorder=2)
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(x) <= MARKED and is_thick else {}
    axes.plot(x, mean, **style, **marker, zorder=3)
    size = 6.5 if is_thick else 3.5
    axes.plot(x[-1], mean[-1], "o", color=color, markersize=size, markeredgecolor="white", zorder=4)


def _limit_height(axes: "Axes", lines: Sequence[Line], column: str) -> None:
    """Limit the y axis of a falling metric to its values after the first tenth, so that differences show.

    Lines that end above where they began get at most three times the range of the others.
    """
    is_log = column.endswith("perplexity")
    if column.endswith(SMALLER_IS_BETTER):
        end = max(line.x[-1] for line in lines)
        tails = []
        for line in lines:
            tail = (line.x >= 0.1 * end) | (line.x == line.x[-1])
            mean = line.mean[tail]
            spread = np.zeros(1) if line.spread is None else np.nan_to_num(line.spread[tail], posinf=0.0)
            values = np.stack([np.where(spread < mean, mean - spread, mean), mean + spread])
            tails.append(np.log(values) if is_log else values)
        learning = [tail for line, tail in zip(lines, tails, strict=True) if line.mean[-1] <= line.mean[0]] or tails
        low = min(tail.min() for tail in tails)
        most, high = (max(tail.max() for tail in some) for some in (learning, tails))
        top = min(high, low + 3 * (most - low)) if most > low else high
        missing = max(0.0, LEAST_SPAN * abs(top) - (top - low)) / 2
        low, top = low - missing, top + missing
        if top > low:
            limits = low - 0.05 * (top - low), top + 0.08 * (top - low)
            axes.set_ylim(*np.exp(limits) if is_log else limits)
    if is_log:
        log_scale(axes)
    elif axes.get_ylim()[1] >= 1000:
        axes.yaxis.set_major_formatter(lambda value, _: short(value))
    if max(line.mean.max() for line in lines) > axes.get_ylim()[1]:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.99, 0.99, "higher values are cut off", color=FAINT, fontsize="small", **place)


def _entries(lines: Sequence[Line]) -> list[str]:
    """Legend texts of the best: `4.2130 ± 0.0120  optimizer.lr=0.003 (3 seeds)`."""
    named = lines[: len(NAMED)]
    decimals = _decimals(lines[0].mean[-1])
    ends = [_last_value(line, decimals) for line in named]
    counts = [f" ({seeds(line.runs)})" if len(line.runs) > 1 else "" for line in named]
    return [
        f"{end:<{max(map(len, ends))}}  {label(line.label, LONGEST_LABEL)}{count}"
        for end, line, count in zip(ends, named, counts, strict=True)
    ]


def _draw_legend(figure: "Figure", title: str, entries: list[str], styles: list[dict[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style, marker="o", markersize=5) for style in styles[: len(entries)]]
    others = styles[len(entries) :]
    if others:
        handles.append(Line2D([], [], **others[0]))
        entries = [*entries, f"{len(others)} more, darker is better"]
    place: dict[str, Any] = {"loc": "outside right upper", "frameon": False, "alignment": "left"}
    legend = figure.legend(handles, entries, title=title, **place)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set(**font(LEGEND_SIZE))
    legend.get_title().set_color(FAINT)
