"""Pictures of attention: every head of every layer at once, and each layer's heads with the tokens beside them."""

import math
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from gptlab.inspection.drawing import FAINT, INK, bare, font, label, new_figure, sparse_ticks

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

BLUES = ("#f4f6f8", "#bcd0e8", "#5f93c9", "#2a5c94", "#0d2a4d")
SMALLEST_TILE, LARGEST_TILE, GRID_WIDTH = 0.6, 2.6, 12.0  # inches
LABEL = 0.15  # inches that a token's label needs
HOW_TO_READ = "a row is a token, a column what it looks at; darker is more (colour goes with the root of the weight)"


def attention_grid(attention: Tensor, title: str) -> "Figure":
    """Every map as one tile: a row a layer, a column a head. One image, drawn at once.

    Args:
        attention: (L, H, T, T)
        title: what was looked at.
    """
    n_layers, n_heads, n_tokens, _ = attention.shape
    tile = min(max(GRID_WIDTH / n_heads, SMALLEST_TILE), LARGEST_TILE)
    width, height = max(n_heads * tile + 0.8, 6.5), n_layers * tile + 1.1
    figure = new_figure(width, height)
    axes = figure.subplots()
    gap = max(1, round(n_tokens * 0.06))
    axes.imshow(_mosaic(_causal(attention), (gap, gap)), cmap=_blues(), vmin=0, vmax=1)
    centres = np.arange(max(n_layers, n_heads)) * (n_tokens + gap) + (n_tokens - 1) / 2
    axes.set_xticks(centres[:n_heads], [f"{head}" for head in range(1, n_heads + 1)], color=INK)
    axes.set_yticks(centres[:n_layers], [f"{layer}" for layer in range(1, n_layers + 1)], color=INK)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head", color=FAINT)
    axes.set_ylabel("layer", color=FAINT)
    bare(axes)
    _entitle(figure, title, width)
    return figure


def attention_of_layer(attention: Tensor, texts: list[str], *, layer: int) -> "Figure":
    """The heads of one layer, with the tokens beside them.

    Args:
        attention: of this layer, (H, T, T)
        texts: the T tokens.
        layer: its number, from 1.
    """
    n_heads, n_tokens, _ = attention.shape
    columns = min(n_heads, 4 if n_heads % 4 == 0 or n_heads > 6 else 3)
    rows = math.ceil(n_heads / columns)
    side = min(max(n_tokens * LABEL, 2.4), 6.4)
    labels_need = 0.07 * max(len(label(text)) for text in texts)
    width, height = max(columns * (side + 0.2) + labels_need, 6.5), rows * (side + 0.4) + labels_need + 0.6
    gaps = math.ceil(0.4 * n_tokens / side), math.ceil(0.1 * n_tokens / side)  # a head's number stands above it
    maps = np.full((rows * columns, n_tokens, n_tokens), np.nan, dtype=np.float32)
    maps[:n_heads] = _causal(attention)
    figure = new_figure(width, height)
    axes = figure.subplots()
    mosaic = _mosaic(maps.reshape(rows, columns, n_tokens, n_tokens), gaps)
    axes.imshow(mosaic, cmap=_blues(), vmin=0, vmax=1)
    tops, lefts = np.arange(rows) * (n_tokens + gaps[0]), np.arange(columns) * (n_tokens + gaps[1])
    for head in range(n_heads):
        above = lefts[head % columns] + (n_tokens - 1) / 2, tops[head // columns] - 0.5
        axes.annotate(
            f"head {head + 1}", above, xytext=(0, 4), textcoords="offset points", ha="center", fontsize=9, color=FAINT
        )
    ticks = np.array(sparse_ticks(n_tokens, int(side / LABEL)))
    labels = [label(texts[tick]) for tick in ticks]
    axes.set_xticks((lefts[:, None] + ticks).ravel(), labels * columns, rotation=90, **font(7))
    axes.set_yticks((tops[:, None] + ticks).ravel(), labels * rows, **font(7))
    bare(axes)
    _entitle(figure, f"layer {layer}", width)
    return figure


def _causal(attention: Tensor) -> np.ndarray:
    """The root of the weights, so that small ones show; nan, which is not drawn, in the future."""
    n_tokens = attention.shape[-1]
    future = np.triu(np.ones((n_tokens, n_tokens), dtype=bool), k=1)
    return np.where(future, np.nan, attention.sqrt().numpy())


def _mosaic(maps: np.ndarray, gaps: tuple[int, int]) -> np.ndarray:
    """Maps (rows, columns, T, T) as one, with so many empty cells between rows and between columns."""
    n_rows, n_columns, n_tokens, _ = maps.shape
    down, right = n_tokens + gaps[0], n_tokens + gaps[1]
    tiles = np.full((n_rows, n_columns, down, right), np.nan, dtype=maps.dtype)
    tiles[:, :, :n_tokens, :n_tokens] = maps
    return tiles.transpose(0, 2, 1, 3).reshape(n_rows * down, n_columns * right)[: -gaps[0], : -gaps[1]]


def _blues() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("attention", BLUES).with_extremes(bad="white")


def _entitle(figure: "Figure", title: str, width: float) -> None:
    """What is shown, above a picture of so many inches, and how it is read, below."""
    characters = int(width * 11)  # that have room
    figure.suptitle(label(title, characters), x=0.01, ha="left", **font(11, fontweight="bold"))
    figure.supxlabel(HOW_TO_READ, x=0.01, ha="left", fontsize=min(8.0, width * 1.15), color=FAINT)
