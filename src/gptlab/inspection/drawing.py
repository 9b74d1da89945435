"""Attention maps as one picture, and text in pictures: tokens of any script in fonts that have their characters."""

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILIES = (
    *("DejaVu Sans Mono", "DejaVu Sans"),  # part of matplotlib
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei"),
    *("Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
)
INK, FAINT = "#24303d", "#8a96a3"
"""Colours of text, and of secondary text."""
BLUES = ("#f4f6f8", "#bcd0e8", "#5f93c9", "#2a5c94", "#0d2a4d")
SMALLEST_TILE, LARGEST_TILE, GRID_WIDTH, DPI = 0.6, 2.6, 12.0, 100  # inches; dots per inch
LEGEND = "each row is a token, each column what it attends to; darker is more (square root of the weight)"


def attention_grid(attention: np.ndarray, title: str, *, causal: bool) -> "Figure":
    """Every attention map as one tile of an image: a row for each layer, a column for each head.

    Args:
        attention: (L, H, T, T)
        title: the text that was read.
        causal: leave the future blank.
    """
    from matplotlib.colors import LinearSegmentedColormap

    n_layers, n_heads, n_tokens, _ = attention.shape
    tile = min(max(GRID_WIDTH / n_heads, SMALLEST_TILE), LARGEST_TILE)
    width, height = max(n_heads * tile + 0.8, 6.5), n_layers * tile + 1.1
    shades = np.sqrt(attention)  # so that small weights show
    if causal:
        shades = np.where(np.triu(np.ones((n_tokens, n_tokens), dtype=bool), k=1), np.nan, shades)
    side = n_tokens + max(1, round(n_tokens * 0.06))  # a tile and the gap after it
    tiles = np.full((n_layers, n_heads, side, side), np.nan, dtype=np.float32)
    tiles[:, :, :n_tokens, :n_tokens] = shades
    image = tiles.transpose(0, 2, 1, 3).reshape(n_layers * side, n_heads * side)[: n_tokens - side, : n_tokens - side]

    figure = new_figure(width, height)
    axes = figure.subplots()
    colours = LinearSegmentedColormap.from_list("attention", BLUES).with_extremes(bad="white")
    axes.imshow(image, cmap=colours, vmin=0, vmax=1)
    centres = np.arange(max(n_layers, n_heads)) * side + (n_tokens - 1) / 2
    axes.set_xticks(centres[:n_heads], [f"{head}" for head in range(1, n_heads + 1)], color=INK)
    axes.set_yticks(centres[:n_layers], [f"{layer}" for layer in range(1, n_layers + 1)], color=INK)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("head", color=FAINT)
    axes.set_ylabel("layer", color=FAINT)
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)
    figure.suptitle(label(title, int(width * 11)), x=0.01, ha="left", **font(11, fontweight="bold"))
    figure.supxlabel(LEGEND, x=0.01, ha="left", fontsize=min(8.0, width * 1.15), color=FAINT)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure  # half a second: only commands that draw pay

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def label(text: str, length: int = 12) -> str:
    """The text cut to a length; characters that no font here has are escaped."""
    characters = _drawable()
    shown = "".join(c if ord(c) in characters else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def font(size: float, color: str = INK, **more: Any) -> dict[str, Any]:
    """Keyword arguments of a matplotlib text that shows a token; `$` begins no formula."""
    return {"fontfamily": _families(), "fontsize": size, "color": color, "parse_math": False, **more}


def pixels(figure: "Figure") -> np.ndarray:
    """The drawn figure, (height, width, 3), values from 0 to 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@functools.cache
def _families() -> list[str]:
    """The families of FAMILIES on this machine; matplotlib takes each character from the first that has it."""
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return [family for family in FAMILIES if family in installed]


@functools.cache
def _drawable() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    paths = [findfont(FontProperties(family=family)) for family in _families()]
    return frozenset(code for path in paths for code in get_font(path).get_charmap())
