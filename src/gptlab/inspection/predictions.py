"""Pictures of predictions: which tokens surprised the model, and how its prediction forms from layer to layer."""

import math
import unicodedata
from typing import TYPE_CHECKING

from gptlab.inspection.drawing import FAINT, INK, NONE, bare, font, label, new_figure, sparse_ticks
from gptlab.inspection.look import Inspection, cost_of_a_guess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

ORANGES = ("#fdf6f2", "#f3c3ad", "#dd7a55", "#a8401c")
GREENS = ("#f6f9f6", "#c9e5d3", "#8ccaa4")
LINE, CHARACTER = 0.27, 0.085  # inches that a line, and a character of the strip need
NARROWEST = 9.0  # inches
MOST_LAYERS = 16
"""So many columns the lens has at most: of more layers, some are left out."""


def surprise(inspection: Inspection, texts: dict[int, str], *, vocab_size: int) -> "Figure":
    """The text with each token coloured by its loss, and the losses as bars under it."""
    tokens = [texts[id_] for id_ in inspection.ids.tolist()]
    width = max(NARROWEST, 0.11 * len(tokens))
    lines = _lines([label(token, 24) for token in tokens], room=int((width - 1) / CHARACTER))
    strip_height, bars_height = LINE * len(lines) + 0.1, 3.2
    figure = new_figure(width, strip_height + bars_height + 0.5)
    strip, bars = figure.subplots(2, 1, height_ratios=[strip_height, bars_height])
    losses = [math.nan, *inspection.losses.tolist()]
    uniform = cost_of_a_guess(vocab_size)
    colours = _colours(ORANGES)
    _draw_strip(strip, lines, losses, colours, most=uniform, width=width)

    places = range(len(tokens))
    known = [0.0 if math.isnan(loss) else loss for loss in losses]
    bars.bar(places, known, width=0.82, color=[colours(min(loss / uniform, 1.0)) for loss in known])
    bars.axhline(uniform, color=FAINT, linewidth=0.8, linestyle="--")
    guess = f"dashed: a guess among all {vocab_size:,} tokens costs {uniform:.1f}"
    bars.set_title(guess, loc="left", fontsize=8, color=FAINT)
    bars.set_ylim(0, max(uniform, *known) * 1.12)
    bars.set_xlim(-0.7, len(tokens) - 0.3)
    ticks = sparse_ticks(len(tokens), int(width / 0.15))
    bars.set_xticks(ticks, [label(tokens[tick]) for tick in ticks], rotation=90, **font(7.5))
    bars.set_ylabel("loss, nats", color=FAINT)
    bare(bars)
    bars.tick_params(axis="y", labelcolor=FAINT)
    mean = f", mean loss {inspection.losses.mean():.2f} nats per token" if len(tokens) > 1 else ""
    strip.set_title(f"which tokens surprised the model{mean}", loc="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def lens(inspection: Inspection, texts: dict[int, str]) -> "Figure":
    """A row a token, a column a layer: what the model would predict next if it ended there."""
    tokens = [texts[id_] for id_ in inspection.ids.tolist()]
    layers = _some(len(inspection.layer_ids))
    columns = len(layers)
    colours = _colours(GREENS)
    width, height = 1.2 * columns + 2.6, 0.24 * len(tokens) + 1.5
    figure = new_figure(width, height)
    axes = figure.subplots()
    probabilities = inspection.layer_probabilities[layers].T.numpy()  # (T, columns)
    axes.imshow(probabilities, cmap=colours, vmin=0, vmax=1, aspect="auto")
    ids = inspection.layer_ids[layers].T.tolist()
    came = [*inspection.ids.tolist()[1:], None]
    for row, predicted in enumerate(ids):
        for column, id_ in enumerate(predicted):
            right = id_ == came[row]
            axes.text(
                column, row, label(texts[id_]), ha="center", va="center", in_layout=False,
                **font(7.5, INK if right else "#4a5561", fontweight="bold" if right else "normal"),
            )  # fmt: skip
    axes.set_yticks(range(len(tokens)), [label(token) for token in tokens], **font(7.5))
    axes.set_ylabel("after this token ...", color=FAINT)
    axes.set_xticks(range(columns), [_layer_name(inspection, layer) for layer in layers], fontsize=8, color=INK)
    axes.xaxis.tick_top()
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(
        range(len(tokens)), ["" if id_ is None else label(texts[id_]) for id_ in came], **font(7.5, fontweight="bold")
    )
    beside.set_ylabel("... this one came", color=FAINT)
    bare(axes)
    beside.tick_params(length=0, pad=3)
    beside.spines[:].set_visible(False)
    title = "how the prediction forms, layer by layer"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    heading = "greener: more probable; bold: the token that came"
    figure.supxlabel(heading, x=0.01, ha="left", fontsize=8, color=FAINT)
    return figure


def _lines(labels: list[str], room: int) -> list[list[tuple[int, str]]]:
    """Numbered labels, broken into lines where one has no room for more characters, or where a line break was."""
    lines: list[list[tuple[int, str]]] = [[]]
    used = 0
    for place, text in enumerate(labels):
        if used + _cells(text) + 1 > room:
            lines.append([])
            used = 0
        lines[-1].append((place, text))
        used += _cells(text) + 1
        if "↵" in text and place + 1 < len(labels):
            lines.append([])
            used = 0
    return lines


def _cells(text: str) -> int:
    """How many places of a monospaced font a text takes: two for a wide character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _draw_strip(
    axes: "Axes",
    lines: list[list[tuple[int, str]]],
    losses: list[float],
    colours: "Colormap",
    *,
    most: float,
    width: float,
) -> None:
    axes.set_xlim(0, width / CHARACTER)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_axis_off()
    size = CHARACTER * 72 / 0.602  # DejaVu Sans Mono's characters are 0.602 of its size wide
    for line, row in enumerate(lines):
        x = 0.5
        for place, text in row:
            share = 0.0 if math.isnan(losses[place]) else min(losses[place] / most, 1.0)
            box = {"facecolor": colours(share) if place else NONE, "edgecolor": "none", "boxstyle": "square,pad=0.12"}
            colour = "white" if share > 0.75 else INK
            axes.text(x, line, text, va="center", bbox=box, **font(size, colour))
            x += _cells(text) + 1


def _layer_name(inspection: Inspection, layer: int) -> str:
    """A column's head: which layer, and the mean loss if the model ended there."""
    name = "embedding" if layer == 0 else f"layer {layer}"
    return f"{name}\nloss {inspection.layer_losses[layer].mean():.2f}" if len(inspection.ids) > 1 else name


def _some(n: int) -> list[int]:
    """At most MOST_LAYERS of so many, evenly, the first and the last among them."""
    if n <= MOST_LAYERS:
        return list(range(n))
    return [round(i * (n - 1) / (MOST_LAYERS - 1)) for i in range(MOST_LAYERS)]


def _colours(stops: tuple[str, ...]) -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("inspection", stops)
