"""The pictures of report.html."""

import math
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from gptlab.inspection.drawing import INK, font, label, new_figure
from gptlab.sweep.definition import Definition
from gptlab.sweep.search import short
from gptlab.sweep.space import Parameter
from gptlab.sweep.trial import TrialRecord, best_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINISHED, BEST, PRUNED, FAILED = "#3b6ea5", "#d1603d", "#8a96a3", "#b3261e"
SPAN = 0.02
"""The metric's axis spans at least this share of its value, so that noise does not look like a difference."""
INNER, TOLERATED = 0.6, 3.0
"""The axis shows the best 60 % of the trials, and those at most three times as far from the best."""


class View:
    """The trials by status, and the range of the metric that pictures show."""

    def __init__(self, definition: Definition, records: list[TrialRecord]) -> None:
        self.definition, self.records, self.space = definition, records, definition.parameters
        with_value = [record for record in records if is_number(record.metric)]
        self.finished = [record for record in with_value if record.status == "finished"]
        self.pruned = [record for record in with_value if record.status == "pruned"]
        self.failed = [record for record in records if record.status == "failed"]
        self.best = best_of(self.finished, direction=definition.direction)
        self.sign = 1.0 if definition.direction == "minimize" else -1.0
        self.low, self.high = self._range()

    def _range(self) -> tuple[float, float]:
        """Without the trials that are much worse than most, such as a diverged one."""
        costs = sorted(self.sign * float(record.metric or 0.0) for record in (*self.finished, *self.pruned)) or [0.0]
        inner = costs[math.ceil(INNER * len(costs)) - 1]
        inner = next((cost for cost in costs if cost >= inner and cost > costs[0]), costs[0])
        worst = max(cost for cost in costs if cost <= costs[0] + TOLERATED * (inner - costs[0]))
        low, high = sorted((self.sign * costs[0], self.sign * worst))
        missing = max(0.0, SPAN * abs(low + high) / 2 - (high - low)) or (low == high) * 1e-6
        return low - missing / 2, high + missing / 2

    def shown(self, record: TrialRecord) -> float:
        """The metric, or the worst end of the range if it is worse or there is none."""
        worst = self.high if self.sign > 0 else self.low
        return worst if not is_number(record.metric) else min(max(float(record.metric or 0.0), self.low), self.high)

    def share(self, record: TrialRecord) -> float:
        """The place of the metric in the range, 0 to 1."""
        return (self.shown(record) - self.low) / (self.high - self.low)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e100  # False for NaN


def history(view: View) -> "Figure":
    """The metric of each trial, and the best so far; trials without a value stand at the worst end."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.5, 3.4)
    axes = figure.subplots()
    best = [view.best] if view.best is not None else []
    kinds = {"finished": view.finished, "pruned": view.pruned, "failed": view.failed, "best": best}
    for (name, records), color, marker in zip(kinds.items(), (FINISHED, PRUNED, FAILED, BEST), "oDxo", strict=True):
        x, y = [record.number for record in records], [view.shown(record) for record in records]
        size = 58 if name == "best" else 22
        axes.scatter(x, y, s=size, color=color, marker=marker, label=name if records else None, clip_on=False, zorder=3)
    so_far = accumulate(map(view.shown, view.finished), min if view.sign > 0 else max)
    numbers = [record.number for record in view.finished]
    axes.step(numbers, [*so_far], where="post", color=BEST, linewidth=1.5, label="best so far")
    axes.set_xlabel("trial", fontsize=9, color=INK)
    axes.set_ylabel(label(view.definition.metric, 40), **font(9))
    margin = 0.03 * (view.high - view.low)
    axes.set_ylim(view.low - margin, view.high + margin)
    axes.ticklabel_format(useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def parallel_coordinates(view: View) -> "Figure":
    """A line for each trial, through its values to its metric."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    shades = LinearSegmentedColormap.from_list("good to bad", ("#0d2a4d", "#2a5c94", "#5f93c9", "#bcd0e8"))
    figure = new_figure(9.0, 3.8)
    axes = figure.subplots()
    columns = [_places(entry, view.records) for entry in view.space]
    for record in [*view.pruned, *view.finished]:
        heights = [*(places[record.number] for places, _ in columns), view.share(record)]
        corners = [(0.0, heights[0])]
        for column, (here, there) in enumerate(pairwise(heights)):
            corners += [(column + 0.45, here), (column + 0.55, there), (column + 1.0, there)]
        badness = view.share(record) if view.sign > 0 else 1 - view.share(record)
        look: dict[str, Any] = {"edgecolor": shades(badness), "linewidth": 1.2, "alpha": 0.85, "zorder": 2 - badness}
        if record.status == "pruned":
            look = {"edgecolor": PRUNED, "linewidth": 0.8, "linestyle": (0, (4, 3)), "alpha": 0.6}
        if record is view.best:
            look = {"edgecolor": BEST, "linewidth": 2.6, "zorder": 3}
        curve = Path(corners, [Path.MOVETO] + [Path.CURVE4] * (len(corners) - 1))
        axes.add_patch(PathPatch(curve, facecolor="none", **look))
    marks = [(place, short(view.low + place * (view.high - view.low))) for place in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for column, (entry, (_, ticks)) in enumerate(zip(view.space, columns, strict=True)):
        _draw_scale(axes, column, entry.key, ticks, room=90 // len(view.space))
    _draw_scale(axes, len(view.space), view.definition.metric, marks, room=90 // len(view.space))
    axes.set_xlim(-0.02 * len(view.space), 1.06 * len(view.space))
    axes.set_ylim(-0.06, 1.06)
    axes.set_axis_off()
    return figure


def _draw_scale(axes: "Axes", column: int, name: str, ticks: list[tuple[float, str]], *, room: int) -> None:
    """A vertical axis with its ticks; `room` is a number of characters."""
    axes.plot([column, column], [0, 1], color=INK, linewidth=1.0, zorder=4)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 3}
    beside: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "zorder": 5, "bbox": box}
    for place, text in ticks[:: -(-len(ticks) // 16)]:
        axes.annotate(label(text, min(14, room - 2)), (column, place), **beside, **font(8.5))
    parts = name.replace("/", "/\n").replace(".", ".\n").split("\n")
    shown = "\n".join(label(part, room) for part in parts)
    axes.text(column, 1.06, shown, ha="center", va="bottom", **font(8.5, fontweight="bold"))


def _places(entry: Parameter, records: list[TrialRecord]) -> tuple[dict[int, float], list[tuple[float, str]]]:
    """Where each trial stands on the axis of a key, 0 to 1 by its number, and the ticks with their labels."""
    tried = {record.number: record.values[entry.key] for record in records}
    if entry.is_list:
        place_of = {value: i / max(1, len(entry.values) - 1) for i, value in enumerate(entry.values)}
        ticks = [(place, str(value)) for value, place in place_of.items()]
        return {number: place_of[value] for number, value in tried.items()}, ticks
    scale, inverse = (math.log, math.exp) if entry.is_log else (float, float)
    low, high = map(scale, entry.values[:2])
    ticks = [(i / 4, short(float(inverse(low + (high - low) * i / 4)), 2)) for i in range(5 if low < high else 1)]
    return {number: (scale(value) - low) / ((high - low) or 1.0) for number, value in tried.items()}, ticks
