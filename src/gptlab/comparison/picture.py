"""The picture: every line, its spread over seeds, where it ends, and a legend beside it with the best on top."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab.comparison.labels import seeds
from gptlab.comparison.lines import Line, smaller_is_better
from gptlab.comparison.numbers import decimals
from gptlab.inspection.drawing import FAINT, font, label
from gptlab.training.drawing import EVEN, frame, log_scale, save, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = ("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#94a4a2", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
"""Ten colours that stay apart for colour-blind eyes and in grey (Petroff 2021, arXiv:2107.02270); of the best lines."""
DARKEST, LIGHTEST = 0.55, 0.25
"""Of the others, from the best to the last, on matplotlib's scale of greys."""

WIDTH, HEIGHT, DPI = 8.2, 5.2, 130  # of the curves, in inches; the legend comes on top
LEGEND_SIZE, CHARACTER, MARGIN = 8.5, 0.0735, 0.6  # points; inches that a character is wide, and all beside them
THICK, THIN = 1.9, 0.8
LONGEST_LABEL = 80
DIGITS = 4
MOST_POINTS = 2000
"""Of a line that are drawn: more than there are pixels across."""
MARKED = 30
"""Lines of up to so many points show each."""

Y_LABELS = {
    "train/loss": "training loss, nats per token",
    "val/loss": "validation loss, nats per token",
    "val/perplexity": "validation perplexity",
    "val/bits_per_byte": "validation loss, bits per byte",
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "tokens_per_second": "tokens per second",
}
TIMES = ((2 * 3600.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From so many seconds on, the seconds of a unit, and its name."""


def draw(lines: Sequence[Line], picture: Path, *, column: str, over: str, window: int) -> None:
    """Draw the lines, and write the picture whole.

    Args:
        lines: best first.
        picture: its file; the name's ending is the format.
        column: of metrics.csv, upwards.
        over: steps, tokens or seconds, to the right.
        window: rows of the running mean that was taken.
    """
    from matplotlib.figure import Figure  # half a second: only who draws pays
    from matplotlib.ticker import MaxNLocator

    entries, title = _entries(lines), _title(lines)
    width = WIDTH + MARGIN + CHARACTER * max(map(len, (title, *entries)))
    figure = Figure(figsize=(width, HEIGHT), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    unit, name = _unit(lines, over)
    styles = _styles(len(lines))
    for line, style in reversed([*zip(lines, styles, strict=True)]):  # the best on top
        _draw_line(axes, line, unit, style)
    axes.set(xlabel=name, ylabel=Y_LABELS.get(column, column) + (f", mean of {window} steps" if window > 1 else ""))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=EVEN, integer=over != "seconds"))
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    _limit_height(axes, lines, column)
    frame(axes)
    _legend(figure, title, entries, styles)
    save(figure, picture)


def _styles(n: int) -> list[dict[str, Any]]:
    """Colours and widths, best first."""
    from matplotlib import colormaps

    named = [{"color": color, "linewidth": THICK} for color in NAMED[:n]]
    shades = colormaps["Greys"](np.linspace(DARKEST, LIGHTEST, max(0, n - len(NAMED))))
    return [*named, *({"color": shade, "linewidth": THIN} for shade in shades)]


def _draw_line(axes: "Axes", line: Line, unit: float, style: dict[str, Any]) -> None:
    """The mean, its band, and a dot at its end; each run too, where they have different steps."""
    shown = _some(len(line.x))
    x, mean = line.x[shown] / unit, line.mean[shown]
    color, is_thick = style["color"], style["linewidth"] == THICK
    if line.spread is not None and is_thick:
        spread = line.spread[shown]
        axes.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.18, linewidth=0, zorder=2)
    for its in () if line.has_all else line.series:
        some = _some(len(its.x))
        axes.plot(its.x[some] / unit, its.y[some], color=color, linewidth=THIN, alpha=0.7, zorder=2)
    marker: dict[str, Any] = {"marker": "o", "markersize": 3} if len(x) <= MARKED and is_thick else {}
    axes.plot(x, mean, **style, **marker, zorder=3)
    size = 6.5 if is_thick else 3.5
    axes.plot(x[-1], mean[-1], "o", color=color, markersize=size, markeredgecolor="white", zorder=4)


def _some(n: int) -> np.ndarray:
    """Which of n points are drawn: evenly apart, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, MOST_POINTS).round().astype(int))


def _unit(lines: Sequence[Line], over: str) -> tuple[float, str]:
    """What x is divided by, and the axis's name."""
    if over != "seconds":
        return 1.0, {"steps": "optimizer steps", "tokens": "tokens trained on"}[over]
    longest = max(its.x[-1] for line in lines for its in line.series)
    size, unit = next((size, unit) for least, size, unit in TIMES if longest >= least)
    return size, f"{unit} of training"


def _limit_height(axes: "Axes", lines: Sequence[Line], column: str) -> None:
    """Leave out of falling curves where they begin, and what flies away: there must be room for differences.

    Shown are the values behind the first tenth of the picture; of lines that end above where they began only what
    lies within three times the range of the others.
    """
    is_log = column.endswith("perplexity")
    if smaller_is_better(column):
        end = max(line.x[-1] for line in lines)
        tails = [line.mean[(line.x >= 0.1 * end) | (line.x == line.x[-1])] for line in lines]
        learning = [tail for line, tail in zip(lines, tails, strict=True) if line.mean[-1] <= line.mean[0]] or tails
        low, most, high = (math.log(y) if is_log else y for y in (_least(tails), _most(learning), _most(tails)))
        top = min(high, low + 3 * (most - low)) if most > low else high
        if top > low:
            limits = low - 0.05 * (top - low), top + 0.08 * (top - low)
            axes.set_ylim(*map(math.exp, limits) if is_log else limits)
    if is_log:
        log_scale(axes)
    elif axes.get_ylim()[1] >= 1000:
        axes.yaxis.set_major_formatter(lambda value, _: short(value))
    if _most([line.mean for line in lines]) > axes.get_ylim()[1]:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.99, 0.99, "what lies higher is cut off", color=FAINT, fontsize="small", **place)


def _least(several: Sequence[np.ndarray]) -> float:
    return min(float(values.min()) for values in several)


def _most(several: Sequence[np.ndarray]) -> float:
    return max(float(values.max()) for values in several)


def _entries(lines: Sequence[Line]) -> list[str]:
    """What the legend says of the best: `4.213 ± 0.012  optimizer.lr=0.003 (3 seeds)`."""
    named = lines[: len(NAMED)]
    behind = decimals(lines[0].mean[-1], digits=DIGITS)
    ends = [" ".join(filter(None, line.texts(-1, behind=behind))) for line in named]
    counts = [f" ({seeds(line.runs)})" if len(line.runs) > 1 else "" for line in named]
    return [
        f"{end:<{max(map(len, ends))}}  {label(line.label, LONGEST_LABEL)}{count}"
        for end, line, count in zip(ends, named, counts, strict=True)
    ]


def _title(lines: Sequence[Line]) -> str:
    """Of the legend."""
    has_spread = any(line.spread is not None for line in lines)
    return "at the end" + (" ± one standard deviation, as the bands" if has_spread else "")


def _legend(figure: "Figure", title: str, entries: list[str], styles: list[dict[str, Any]]) -> None:
    """To the right of the curves."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **style, marker="o", markersize=5) for style in styles[: len(entries)]]
    others = styles[len(entries) :]
    if others:
        handles.append(Line2D([], [], **others[0]))
        entries = [*entries, f"{len(others)} more, the darker the better"]
    place: dict[str, Any] = {"loc": "outside right upper", "frameon": False, "alignment": "left"}
    legend = figure.legend(handles, entries, title=title, **place)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set(**font(LEGEND_SIZE))
    legend.get_title().set_color(FAINT)
