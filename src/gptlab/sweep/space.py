"""The search space of a sweep: for each swept key a range, or a list of values.

>>> parameter("optimizer.lr", {"log_uniform": [1e-4, 1e-2]}).overrides(0.002)
['optimizer.lr=0.002']
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gptlab.arguments import nearest
from gptlab.errors import UserError

if TYPE_CHECKING:
    import optuna

RANGES = ("uniform", "log_uniform", "int", "log_int")
LISTS = ("choice", "grid")
"""One of these values, or each of them."""
CASE, CASES = "case", "cases"
"""The key of named sets of overrides, and its kind."""

Value = float | int | str
"""A number, or anything else as the text of an override: `true`, `plain`, `[0.9,0.95]`."""


@dataclass(frozen=True)
class Parameter:
    """One swept key.

    Attributes:
        key: as in an override, `optimizer.lr` or `model/attention`.
        kind: one of RANGES or LISTS, or CASES.
        values: of a list, its values; of a range, its bounds, both included (and the step of an `int`).
    """

    key: str
    kind: str
    values: tuple[Any, ...]

    @property
    def is_list(self) -> bool:
        return self.kind in (*LISTS, CASES)

    @property
    def is_log(self) -> bool:
        return self.kind.startswith("log_")

    @property
    def examples(self) -> tuple[Value, ...]:
        """All values of a list, the bounds of a range."""
        return self.values if self.is_list else self.values[:2]

    @property
    def node(self) -> dict[str, list[Any]]:
        """Plain data that `parameter` reads."""
        return {self.kind: [*self.values]}

    def overrides(self, value: Value) -> list[str]:
        """The overrides of a trial with this value."""
        return [f"{self.key}={value}"]

    def suggest(self, trial: "optuna.Trial") -> Value:
        """The trial's value of this key. The study's sampler chooses it the first time."""
        if self.is_list:
            return trial.suggest_categorical(self.key, self.values)
        low, high, *step = self.values
        if self.kind.endswith("int"):
            return trial.suggest_int(self.key, low, high, step=step[0] if step else 1, log=self.is_log)
        return trial.suggest_float(self.key, low, high, log=self.is_log)


@dataclass(frozen=True)
class Case:
    """A named set of overrides; `adds` says in a few words what it adds to the case before it."""

    name: str
    overrides: list[str]
    adds: str = ""


@dataclass(frozen=True)
class Cases(Parameter):
    """Cases as a swept key: a trial has all overrides of one of them. `values` are the names."""

    cases: tuple[Case, ...]

    @property
    def node(self) -> dict[str, list[Any]]:
        return {CASES: [asdict(case) for case in self.cases]}

    def only(self, names: list[Any]) -> "Cases":
        """Some of them. Raises UserError if there is none of such a name."""
        for name in names:
            if name not in self.values:
                raise UserError(
                    f"{self.key}={name} is not one of {', '.join(self.values)}{nearest(str(name), self.values)}"
                )
        return _cases(self.key, [asdict(case) for case in self.cases if case.name in names])

    def overrides(self, value: Value) -> list[str]:
        return next(case.overrides for case in self.cases if case.name == value)


def _cases(key: str, nodes: Any) -> Cases:
    """Raises UserError if an entry is no case."""
    try:
        cases = tuple(Case(**node) for node in nodes)
    except TypeError:
        cases = ()
    texts = [
        text for case in cases if isinstance(case.overrides, list) for text in (case.name, case.adds, *case.overrides)
    ]
    are_lists = all(isinstance(case.overrides, list) for case in cases)
    if not cases or not are_lists or not all(isinstance(text, str) for text in texts):
        raise UserError(f"hydra.sweeper.cases must be a list such as [{{name: a, overrides: [seed=1]}}], not {nodes!r}")
    names = [case.name for case in cases]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"hydra.sweeper.cases has {twice[0]} twice")
    return Cases(key, CASES, tuple(names), cases)


def parameter(key: str, node: Any) -> Parameter:
    """An entry of a search space, `{int: [low, high, step]}` or `{choice: [...]}`. Raises UserError if it is none."""
    if isinstance(node, dict) and [*node] == [CASES]:
        return _cases(key, node[CASES])
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
