"""The search space of a sweep: for each swept key a range, or a list of values.

>>> parameter("optimizer.lr", {"log_uniform": [1e-4, 1e-2]}).override(0.002)
'optimizer.lr=0.002'
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptlab.arguments import nearest
from gptlab.errors import UserError

if TYPE_CHECKING:
    import optuna

RANGES = ("uniform", "log_uniform", "int", "log_int")
LISTS = ("choice", "grid")
"""One of these values, or each of them."""

Value = float | int | str
"""A number, or anything else as the text of an override: `true`, `plain`, `[0.9,0.95]`."""


@dataclass(frozen=True)
class Parameter:
    """One swept key.

    Attributes:
        key: as in an override, `optimizer.lr` or `model/attention`.
        kind: one of RANGES or LISTS.
        values: of a list, its values; of a range, its bounds, both included (and the step of an `int`).
    """

    key: str
    kind: str
    values: tuple[Any, ...]

    @property
    def is_list(self) -> bool:
        return self.kind in LISTS

    @property
    def is_log(self) -> bool:
        return self.kind.startswith("log_")

    @property
    def examples(self) -> tuple[Value, ...]:
        """All values of a list, the bounds of a range."""
        return self.values if self.is_list else self.values[:2]

    def override(self, value: Value) -> str:
        return f"{self.key}={value}"

    def suggest(self, trial: "optuna.Trial") -> Value:
        """The trial's value of this key. The study's sampler chooses it the first time."""
        if self.is_list:
            return trial.suggest_categorical(self.key, self.values)
        low, high, *step = self.values
        if self.kind.endswith("int"):
            return trial.suggest_int(self.key, low, high, step=step[0] if step else 1, log=self.is_log)
        return trial.suggest_float(self.key, low, high, log=self.is_log)


def parameter(key: str, node: Any) -> Parameter:
    """An entry of a search space, `{int: [low, high, step]}` or `{choice: [...]}`. Raises UserError if it is none."""
    what, kinds = f"the search space of {key}", (*RANGES, *LISTS)
    if not isinstance(node, dict) or len(node) != 1:
        raise UserError(f"{what} must be one of {', '.join(kinds)} with a list, not {node!r}")
    ((kind, values),) = node.items()
    what = f"{what}: {kind}"
    if kind not in kinds:
        raise UserError(f"{what} is not one of {', '.join(kinds)}{nearest(kind, kinds)} (write keys whole, a.b.c)")
    if not isinstance(values, list | tuple) or not values:
        raise UserError(f"{what} needs a list of values, not {values!r}")
    if kind in LISTS:
        if twice := [value for value in values if values.count(value) > 1]:
            raise UserError(f"{what} has {twice[0]} twice")
        return Parameter(key, kind, tuple(values))
    if len(values) != 2 and not (kind == "int" and len(values) == 3):
        raise UserError(f"{what} needs [low, high{', step' if kind == 'int' else ''}], not {list(values)}")
    number = int if kind.endswith("int") else float
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{what} needs numbers, not {value!r}")
        if number is int and value != int(value):
            raise UserError(f"{what} needs whole numbers, not {value}")
    low, high, *step = values
    if low > high:
        raise UserError(f"{what}: the bounds are reversed, {low} is more than {high}")
    if kind.startswith("log_") and low <= 0:
        raise UserError(f"{what}: a logarithmic scale starts above zero, not at {low}")
    if step and (step[0] < 1 or (high - low) % step[0] != 0):
        raise UserError(f"{what}: steps of {step[0]} do not lead from {low} to {high}")
    return Parameter(key, kind, tuple(map(number, values)))
