"""Parallel coordinates: a line a trial through all that it tried, to what came of it."""

from itertools import pairwise
from typing import TYPE_CHECKING

from gptlab.inspection.drawing import INK, font, label, new_figure
from gptlab.sweep.record import Axis, TrialRecord
from gptlab.sweep.report.pictures import BEST, CHOICE, PRUNED
from gptlab.sweep.report.scale import Scale, scale_of
from gptlab.sweep.report.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD_TO_BAD = ("#0d2a4d", "#2a5c94", "#5f93c9", "#bcd0e8")
NARROWEST, WIDEST, CHARACTER = 5.8, 12.0, 0.072  # inches
FAN = 0.03
"""Lines through the same name pass it side by side, the better ones on the better side."""


def parallel_coordinates(view: View, axes: list[Axis]) -> "Figure":
    """The darker a line, the better the trial; the best has a colour of its own, pruned trials are grey and dashed."""
    trials = [*view.pruned, *view.finished]
    columns = [scale_of(axis, [record.values[axis.key] for record in trials]) for axis in axes]
    width = min(max(1.8 * len(axes) + 2.4, NARROWEST), WIDEST)
    room = int(width / (len(axes) + 1) / CHARACTER) - 1  # characters between an axis and the next
    figure = new_figure(width, 4.4)
    picture = figure.subplots()
    worst_first = sorted(view.finished, key=lambda record: abs(view.place(record) - view.worst))
    for record in [*view.pruned, *worst_first]:
        fan = FAN * (view.place(record) - 0.5)
        heights = [
            scale.place(record.values[axis.key]) + (fan if scale.has_names else 0.0)
            for axis, scale in zip(axes, columns, strict=True)
        ]
        _draw_line(picture, [*heights, view.place(record)], view, record)
    for column, (axis, scale) in enumerate(zip(axes, columns, strict=True)):
        _draw_axis(picture, column, axis.key, scale, room=room)
    _draw_axis(picture, len(axes), view.metric, view.scale, room=room)
    picture.set_xlim(-0.15, len(axes) + 0.75)
    picture.set_ylim(-0.06, 1.06)
    picture.set_axis_off()
    return figure


def _draw_line(picture: "Axes", heights: list[float], view: View, record: TrialRecord) -> None:
    """Smooth, so that an eye can follow it through a crossing."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners: list[tuple[float, float]] = [(0.0, heights[0])]
    for column, (here, there) in enumerate(pairwise(heights)):
        corners += [(column + 0.45, here), (column + 0.55, there), (column + 1.0, there)]
    path = Path(corners, [Path.MOVETO] + [Path.CURVE4] * (len(corners) - 1))
    shades = LinearSegmentedColormap.from_list("good to bad", GOOD_TO_BAD)
    if record is view.best:
        look = {"edgecolor": BEST, "linewidth": 2.6, "zorder": 3}
    elif record.status == "pruned":
        look = {"edgecolor": PRUNED, "linewidth": 0.8, "linestyle": (0, (4, 3)), "alpha": 0.6}
    else:
        look = {"edgecolor": shades(abs(view.place(record) - (1 - view.worst))), "linewidth": 1.2, "alpha": 0.85}
    picture.add_patch(PathPatch(path, facecolor="none", **look))


def _draw_axis(picture: "Axes", column: int, name: str, scale: Scale, *, room: int) -> None:
    """The axis with its labels to the right, its name above, broken where a key is."""
    picture.plot([column, column], [0, 1], color=INK, linewidth=1.0, zorder=4)
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    for place, text in scale.ticks[:: -(-len(scale.ticks) // 16)]:
        picture.plot([column, column + 0.03], [place, place], color=INK, linewidth=1.0, zorder=4)
        shown = label(text, min(CHOICE, room - 2))
        picture.text(column + 0.05, place, shown, va="center", zorder=5, bbox=behind, **font(8.5))
    parts = [label(part, room) for part in name.replace("/", "/\n").replace(".", ".\n").split("\n")]
    picture.annotate(
        "\n".join(parts), (column, 1.0), xytext=(0, 12), textcoords="offset points", zorder=5,
        ha="center", va="bottom", annotation_clip=False, **font(8.5, fontweight="bold"),
    )  # fmt: skip
