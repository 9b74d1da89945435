"""The budget of a run: steps, training time, tokens or floating-point operations."""

import inspect
from collections.abc import Callable
from typing import Any

BUDGETS = ("max_steps", "max_minutes", "max_tokens", "max_flops")
SHARES = 10_000  # steps of a schedule that follows a share of time
OPEN = 1_000_000_007
"""Stands for `max_steps` until another budget says how many steps it allows; one of time never does. It is no round
number, so that no other setting has this value."""


def budget_of(config: dict[str, Any]) -> str:
    """The budget of a configuration, as an override: `max_tokens=1e6`."""
    name = next((name for name in BUDGETS[1:] if config.get(name) is not None), BUDGETS[0])
    return f"{name}={config[name]:.12g}"


class Budget:
    """When a run ends: after so many steps, or after so much training time.

    Attributes:
        n_steps: the length of the run, as far as it is known.
    """

    def __init__(self, max_steps: int, max_minutes: float | None) -> None:
        self.n_steps = max_steps
        self._seconds = None if max_minutes is None else 60 * max_minutes
        self._used = 0.0

    def spend(self, step: int, seconds: float) -> None:
        """Record that `step` steps took these seconds. Mark the next as the last if it ends closest to the limit."""
        self._used = seconds
        if self._seconds is not None and step > 0 and seconds * (1 + 1.5 / step) > self._seconds:
            self.n_steps = step + 1

    def expected_steps(self, step: int) -> int:
        """The length of the run if further steps take as long as the `step` steps so far."""
        if self._seconds is None or step == 0:
            return self.n_steps
        return min(self.n_steps, max(step + 1, round(step * self._seconds / max(self._used, 1e-9))))

    def lr_factor(self, schedule: Callable[..., float], step: int) -> float:
        """The factor of a step on the learning rate. Under a budget of time it follows the share that is used."""
        if self._seconds is None or "total_steps" not in inspect.signature(schedule).parameters:
            return schedule(step)
        return schedule(min(SHARES, round(SHARES * self._used / self._seconds)), total_steps=SHARES)
