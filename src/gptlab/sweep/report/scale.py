"""Where a value stands on the axis of a picture, from 0 to 1, and what is written beside it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gptlab.sweep.record import Axis

FEW = 6
"""So many numbers to choose from stand side by side like names; more stand on a scale."""
INNER, TOLERATED = 0.6, 3.0
"""The best 60 % of the trials are shown, and those at most three times as far behind the best as the last of these."""
LARGEST = 1e100
DECADES = 50.0
"""A metric whose largest shown value is so many times its smallest is drawn on a logarithmic scale."""


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        place: of a value, 0 to 1; those beyond an end stand at that end.
        ticks: places and their labels, from low to high.
        has_names: whether it has places for so many values and nothing between them.
    """

    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]
    has_names: bool


@dataclass(frozen=True)
class MetricScale(Scale):
    """The axis of the metric, that some trials may be far beyond.

    Attributes:
        limit: the worst value shown.
        is_beyond: whether a value is worse than that.
    """

    limit: float
    is_beyond: Callable[[float], bool]


def scale_of(axis: Axis, values: list[Any]) -> Scale:
    """Of a swept key.

    Args:
        axis: the key.
        values: that were tried, at least one.
    """
    numbers = [float(value) for value in values if is_number(value)]
    if len(numbers) < len(values) or (axis.choices is not None and len(axis.choices) <= FEW):
        return _names([*(axis.choices or ()), *values])
    is_log = axis.is_log or (axis.choices is not None and 0 < DECADES * min(numbers) < max(numbers))
    return _numbers(min(numbers), max(numbers), is_log=is_log)


def scale_of_metric(values: list[float], *, direction: str) -> MetricScale:
    """A diverged trial must not squash the others: what is far worse than most stands at the edge.

    Args:
        values: finite, at least one.
        direction: minimize or maximize.
    """
    sign = 1.0 if direction == "minimize" else -1.0
    costs = sorted(sign * value for value in values)
    best, inner = costs[0], costs[math.ceil(INNER * len(costs)) - 1]
    inner = next((cost for cost in costs if cost >= inner and cost > best), best)
    shown = [cost for cost in costs if cost <= best + TOLERATED * (inner - best)]
    limit = sign * shown[-1]
    low, high = sorted((sign * best, limit))
    scale = _numbers(low, high, is_log=low > 0 and high > DECADES * low)
    return MetricScale(scale.place, scale.ticks, False, limit, lambda value: sign * value > sign * limit)


def text_of(value: Any) -> str:
    """As it would be written in an override, numbers with four digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return short(value) if is_number(value) else str(value)


def short(value: float, digits: int = 4) -> str:
    """0.00031416 -> 0.0003142, 1000000 -> 1e6."""
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def is_number(value: Any) -> bool:
    """Whether it can be drawn: no truth value, and neither nan nor infinite nor close to it."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def _names(values: Iterable[Any]) -> Scale:
    names = list(dict.fromkeys(text_of(value) for value in values))
    places = {name: 0.5 if len(names) == 1 else i / (len(names) - 1) for i, name in enumerate(names)}
    return Scale(lambda value: places[text_of(value)], [(place, name) for name, place in places.items()], True)


def _numbers(low: float, high: float, *, is_log: bool) -> Scale:
    is_log = is_log and low > 0
    bent: Callable[[float], float] = math.log if is_log else float
    begin, length = bent(low), bent(high) - bent(low)

    def place(value: float) -> float:
        if length == 0:
            return 0.5
        return min(max((bent(min(max(value, low), high)) - begin) / length, 0.0), 1.0)

    ticks = _ticks(low, high, is_log=is_log)
    return Scale(place, [(place(tick), label) for tick, label in zip(ticks, _labels(ticks), strict=True)], False)


def _labels(ticks: list[float]) -> list[str]:
    """With as many digits as tell them apart."""
    for digits in range(4, 17):
        labels = [short(tick, digits) for tick in ticks]
        if len(set(labels)) == len(labels):
            break
    return labels


def _ticks(low: float, high: float, *, is_log: bool, room: int = 5) -> list[float]:
    """Round numbers, at most so many; the ends, where there are no two."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        return [low]
    candidates: list[list[float]] = [[float(tick) for tick in MaxNLocator(nbins=room - 1).tick_values(low, high)]]
    if is_log and high >= 10 * low:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = ((1, 2, 5), (1, 3), (1,))
        candidates = [[digit * 10.0**decade for decade in decades for digit in some] for some in digits]
        candidates += [candidates[-1][start::2] for start in (0, 1)]
        candidates += [candidates[2][::3], candidates[2][::6]]
    for ticks in candidates:
        inside = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(inside) <= room:
            return inside
    return [low, high]
