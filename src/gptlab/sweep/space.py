"""What a sweep tries: of each swept key a range, or some values.

>>> parameter("optimizer.lr", {"log_uniform": [1e-4, 1e-2]}).override(0.002)
'optimizer.lr=0.002'
>>> parameter("model/attention", {"choice": ["plain", "fused"]}).values
('plain', 'fused')
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptlab.arguments import nearest
from gptlab.errors import UserError
from gptlab.sweep.record import Axis

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGES = {
    "uniform": (float, False),
    "log_uniform": (float, True),
    "int": (int, False),
    "log_int": (int, True),
}
"""Words for a range: the type of its numbers, and whether it is searched on a logarithmic scale."""
LISTS = ("choice", "grid")
"""Words for values: one of them, or each of them."""

Value = float | int | str
"""A number, or the text of anything else as an override has it: `true`, `plain`, `[0.9,0.95]`."""


@dataclass(frozen=True)
class Swept:
    """One key of a search space.

    Attributes:
        key: what is swept, as in an override.
        word: one of RANGES or LISTS, of what is tried.
    """

    key: str
    word: str

    def override(self, value: Value) -> str:
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Range(Swept):
    """Numbers from low to high, both included.

    Attributes:
        low: the least.
        high: the greatest.
        step: between whole numbers; 1 where the scale is logarithmic.
    """

    low: float
    high: float
    step: int = 1

    @property
    def is_log(self) -> bool:
        return RANGES[self.word][1]

    @property
    def definition(self) -> dict[str, list[Value]]:
        return {self.word: [self.low, self.high, *([self.step] if self.step != 1 else [])]}

    @property
    def axis(self) -> Axis:
        return Axis(self.key, self.is_log, None)

    @property
    def examples(self) -> tuple[Value, ...]:
        return (self.low, self.high) if self.low != self.high else (self.low,)

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if RANGES[self.word][0] is int:
            return IntDistribution(int(self.low), int(self.high), log=self.is_log, step=self.step)
        return FloatDistribution(self.low, self.high, log=self.is_log)


@dataclass(frozen=True)
class Values(Swept):
    """One of some values.

    Attributes:
        values: numbers, and texts as in an override.
    """

    values: tuple[Value, ...]

    @property
    def definition(self) -> dict[str, list[Value]]:
        return {self.word: list(self.values)}

    @property
    def axis(self) -> Axis:
        return Axis(self.key, False, self.values)

    @property
    def examples(self) -> tuple[Value, ...]:
        return self.values

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


Parameter = Range | Values


def parameter(key: str, node: Any) -> Parameter:
    """One entry of a search space.

    Args:
        key: what is swept, as in an override.
        node: one of the words with what it wants: `{log_uniform: [low, high]}`, `{int: [low, high, step]}`,
            `{choice: [value, ...]}`.

    Raises:
        UserError: on any other word, on bounds that are none, reversed, or not above zero on a logarithmic scale.
    """
    known = (*RANGES, *LISTS)
    if not isinstance(node, dict) or len(node) != 1:
        raise UserError(f"the search space of {key} must be one of {', '.join(known)} with a list, not {node!r}")
    ((word, content),) = node.items()
    if word not in known and isinstance(content, dict):
        raise UserError(f"the search space of {key} must name whole keys, with dots: {key}.{word}")
    if word not in known:
        raise UserError(f"{word}, in the search space of {key}, is none of {', '.join(known)}{nearest(word, known)}")
    if not isinstance(content, list | tuple):
        raise UserError(f"the search space of {key}: {word} wants a list, not {content!r}")
    return _values(key, word, content) if word in LISTS else _range(key, word, content)


def _values(key: str, word: str, values: Iterable[Value]) -> Values:
    values = tuple(values)
    if not values:
        raise UserError(f"the search space of {key}: {word} has no values to choose from")
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"the search space of {key}: {word} has {value} twice")
    return Values(key, word, values)


def _range(key: str, word: str, content: Sequence[Any]) -> Range:
    kind, is_log = RANGES[word]
    what = f"the search space of {key}: {word}"
    most = 3 if word == "int" else 2
    if not 2 <= len(content) <= most:
        raise UserError(f"{what} wants [low, high{', step' if most == 3 else ''}], not {content}")
    for number in content:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise UserError(f"{what} wants numbers, not {number!r}")
        if kind is int and number != int(number):
            raise UserError(f"{what} wants whole numbers, not {number}")
    low, high, step = (*content, 1)[:3]
    if low > high:
        raise UserError(f"{what}: its bounds are reversed, {low} is more than {high}")
    if is_log and low <= 0:
        raise UserError(f"{what}: a logarithmic scale begins above zero, not at {low}")
    if step < 1:
        raise UserError(f"{what}: its step must be at least 1, not {step}")
    if (high - low) % step and kind is int:
        raise UserError(f"{what}: steps of {step} do not lead from {low} to {high}")
    return Range(key, word, kind(low), kind(high), int(step))


def combinations(space: list[Parameter]) -> Iterator[dict[str, Value]]:
    """Every value with every other, in the order of a grid: the last key changes fastest.

    Raises:
        UserError: where one is a range, which has no end of values.
    """
    for entry in space:
        if isinstance(entry, Range):
            raise UserError(
                f"sampler=grid tries all values, and {entry.key} is a range: "
                f"list some values of it, or search it with hydra/sweeper=optuna"
            )
    keys = [entry.key for entry in space]
    lists = [entry.values for entry in space if isinstance(entry, Values)]
    return (dict(zip(keys, values, strict=True)) for values in itertools.product(*lists))
