"""Pictures of a sweep: how the search went, and which values did well."""

import base64
import io
from typing import TYPE_CHECKING, Any

from gptlab.inspection.drawing import FAINT, INK, font, label, new_figure
from gptlab.sweep.record import Axis, TrialRecord
from gptlab.sweep.report.scale import Scale, scale_of
from gptlab.sweep.report.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FINISHED, BEST, PRUNED, FAILED = "#3b6ea5", "#d1603d", "#8a96a3", "#b3261e"
OUTSIDE = 0.08
"""So far beyond the worst end of the metric's axis stand the trials that have no value."""
CHOICE = 14
"""Characters of a choice that have room."""


def history(view: View) -> "Figure":
    """The value of each trial, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.0, 3.3)
    axes = figure.subplots()
    trials = [*view.finished, *view.pruned, *view.others]
    _draw_trials(axes, view, {record.number: record.number for record in trials})
    numbers, places = _best_so_far(view)
    last = max(record.number for record in trials)
    if numbers:
        axes.step([*numbers, last], [*places, places[-1]], where="post", color=BEST, linewidth=1.6, label="best so far")
    axes.set_xlim(-0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set_xlabel("trial", fontsize=9, color=INK)
    axes.set_ylabel(label(view.metric, 40), **font(9))
    _metric_axis(axes, view)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8.5, labelcolor=INK, handletextpad=0.3)
    return figure


def _best_so_far(view: View) -> tuple[list[int], list[float]]:
    """Trials that were better than all before them, and their places."""
    numbers: list[int] = []
    places: list[float] = []
    for record in view.finished:
        place = view.place(record)
        if not places or abs(place - view.worst) > abs(places[-1] - view.worst):
            numbers.append(record.number)
            places.append(place)
    return numbers, places


def importance(shares: dict[str, float]) -> "Figure":
    """A bar for each swept key, the longest first."""
    figure = new_figure(5.0, 0.6 + 0.3 * len(shares))
    axes = figure.subplots()
    ordered = sorted(shares.items(), key=lambda item: item[1])
    axes.barh(range(len(ordered)), [share for _, share in ordered], height=0.62, color=FINISHED)
    for row, (_, share) in enumerate(ordered):
        axes.annotate(
            f"{share:.0%}", (share, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9, color=INK
        )
    axes.set_yticks(range(len(ordered)), [label(key, 28) for key, _ in ordered], **font(9))
    axes.set_xlim(0, 1.12 * max(shares.values()))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    return figure


def slice_of(view: View, axis: Axis) -> "Figure":
    """The values of one key against what came of them."""
    figure = new_figure(3.5, 2.7)
    axes = figure.subplots()
    trials = [*view.finished, *view.pruned, *view.others]
    scale = scale_of(axis, [record.values[axis.key] for record in trials])
    spread = 0.5 / max(len(scale.ticks), 2) if scale.has_names else 0.0
    places = {
        record.number: scale.place(record.values[axis.key]) + spread * (record.number * 0.618 % 1 - 0.5)
        for record in trials  # the golden ratio: neighbours in time stand apart, the same each time
    }
    _draw_trials(axes, view, places)
    if scale.has_names:
        _draw_medians(axes, view, axis, scale, half=spread / 2 + 0.02)
    axes.set_xlim(-0.06 - spread / 2, 1.06 + spread / 2)
    _key_axis(axes, scale)
    axes.set_title(label(axis.key, 36), loc="left", **font(9.5, fontweight="bold"))
    _metric_axis(axes, view)
    return figure


def _draw_medians(axes: "Axes", view: View, axis: Axis, scale: Scale, *, half: float) -> None:
    """A bar over each choice that three trials or more have finished with."""
    from statistics import median

    for place, _ in scale.ticks:
        there = [view.place(record) for record in view.finished if scale.place(record.values[axis.key]) == place]
        if len(there) >= 3:
            axes.hlines(median(there), place - half, place + half, color=INK, linewidth=1.2, zorder=1.5)


def _draw_trials(axes: "Axes", view: View, places: dict[int, float]) -> None:
    """A mark for each trial, by what became of it, at its place along the axis below."""
    outside = view.worst + (OUTSIDE if view.worst else -OUTSIDE)
    within = [record for record in view.finished if not view.is_beyond(record) and record is not view.best]
    kinds: list[tuple[str, list[TrialRecord], dict[str, Any]]] = [
        ("finished", within, {"marker": "o", "s": 22, "color": FINISHED, "alpha": 0.8, "linewidths": 0}),
        ("best", [view.best] if view.best else [], {"marker": "o", "s": 58, "color": BEST, "zorder": 4}),
        (
            "off the scale",
            [record for record in view.finished if view.is_beyond(record)],
            {"marker": "^" if view.worst else "v", "s": 28, "color": FINISHED, "alpha": 0.8},
        ),
        ("pruned", view.pruned, {"marker": "D", "s": 20, "facecolors": "none", "edgecolors": PRUNED}),
        (
            "failed",
            [record for record in view.others if record.status == "failed"],
            {"marker": "x", "s": 26, "color": FAILED, "linewidths": 1.4},
        ),
        (
            "no result",
            [record for record in view.others if record.status != "failed"],
            {"marker": "+", "s": 34, "color": PRUNED, "linewidths": 1.4},
        ),
    ]
    for name, records, look in kinds:
        if records:
            heights = [outside if name in ("failed", "no result") else view.place(record) for record in records]
            look = {"zorder": 3, **look}
            axes.scatter([places[record.number] for record in records], heights, label=name, clip_on=False, **look)


def _metric_axis(axes: "Axes", view: View) -> None:
    """Ticks and faint lines of the metric; room for what stands at and beyond its worst end."""
    ticks = view.scale.ticks
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=8.5, color=INK)
    low, high = (-OUTSIDE, 1 + 2 * OUTSIDE) if view.worst else (-2 * OUTSIDE, 1 + OUTSIDE)
    axes.set_ylim(low, high)
    axes.tick_params(axis="both", length=0, labelsize=8.5, labelcolor=INK)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)


def _key_axis(axes: "Axes", scale: Scale) -> None:
    """Numbers below the axis; names too, slanted where they are long, some where they are many."""
    every = -(-len(scale.ticks) // 12)
    ticks = scale.ticks[::every]
    names = [label(text, CHOICE) for _, text in ticks]
    slanted = scale.has_names and sum(map(len, names)) + 2 * len(names) > 34
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks([place for place, _ in ticks], names, **font(8.5), **turned)
    if not scale.has_names:
        axes.grid(axis="x", alpha=0.25)


def as_image(figure: "Figure", *, alt: str) -> str:
    """An HTML element that holds the picture, as sharp as the screen, somewhat enlarged where there is room.

    `alt` is HTML already.
    """
    import matplotlib as mpl

    content = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "gptlab"}):  # any reader's fonts; the same each time
        figure.savefig(content, format="svg", metadata={"Date": None})
    width, _ = figure.get_size_inches()
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{alt}" style="max-width:{1.15 * width:.1f}in" src="data:image/svg+xml;base64,{data}">'
