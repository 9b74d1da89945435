"""Shared parts of pictures: frame, log scale, numbers, running mean, file."""

from pathlib import Path
from typing import Any

import numpy as np

from gptlab.files import whole_file

EVEN = (1, 2, 5, 10)
"""Steps from one tick to the next, for a MaxNLocator."""


def frame(axes: Any) -> None:
    """A faint grid, and no lines at the top and the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def log_scale(axes: Any) -> None:
    """Ticks at 1, 2, 5, 10, ... in short numbers; closer ones if the range is narrow."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high > 5 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    axes.yaxis.set_major_locator(LogLocator(subs=subs) if high > 1.6 * low else MaxNLocator("auto", steps=EVEN))
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.yaxis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """12_500 -> 12.5k, 3_000_000 -> 3M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` values at each place."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(ends - window, 0)
    return (sums[ends] - sums[begins]) / (ends - begins)


def save(figure: Any, picture: Path) -> None:
    """Write a picture atomically, in the format of its suffix. Raises OSError."""
    with whole_file(picture) as file:
        figure.savefig(file, format=picture.suffix[1:].lower())
