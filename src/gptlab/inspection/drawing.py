"""What all pictures share: fonts that have the characters, labels of tokens, a figure as pixels and as a file."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILIES = (
    *("DejaVu Sans Mono", "DejaVu Sans"),  # matplotlib brings these
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei"),
    *("Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
)
INK, FAINT, NONE = "#24303d", "#8a96a3", "#e8ebef"
"""Text; text of less weight; where there is nothing to show."""
DPI = 100


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure  # half a second: only who draws pays

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def label(text: str, length: int = 12) -> str:
    """A token's text, cut to a length, in characters that some font here has; others are escaped."""
    characters = _drawable()
    shown = "".join(c if ord(c) in characters else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def font(size: float, color: str = INK, **more: Any) -> dict[str, Any]:
    """Keywords of a matplotlib text that is a token: `$` is no formula."""
    return {"fontfamily": _families(), "fontsize": size, "color": color, "parse_math": False, **more}


def sparse_ticks(n: int, room: int) -> range:
    """Which of `n` places get a label where there is room for so many."""
    return range(0, n, max(1, -(-n // room)))


def bare(axes: "Axes") -> None:
    """No frame, no tick marks; labels stay."""
    axes.tick_params(length=0, pad=3)
    axes.spines[:].set_visible(False)


def pixels(figure: "Figure") -> np.ndarray:
    """(height, width, 3), 0 to 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(picture: np.ndarray, path: Path) -> None:
    """Write pixels as a PNG."""
    from matplotlib.image import imsave

    imsave(path, picture, format="png")


@functools.cache
def _families() -> list[str]:
    """Those of FAMILIES that this machine has: matplotlib takes each character from the first that has it."""
    from matplotlib.font_manager import fontManager

    there_are = {entry.name for entry in fontManager.ttflist}
    return [family for family in FAMILIES if family in there_are]


@functools.cache
def _drawable() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    paths = [findfont(FontProperties(family=family)) for family in _families()]
    return frozenset(code for path in paths for code in get_font(path).get_charmap())
