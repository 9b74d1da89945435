"""Run time and training speed."""

import time
from collections import deque


class Clock:
    """Seconds of a run, validation and saving included, and of its training steps alone.

    `state` and `load` carry both to the next session.
    """

    def __init__(self) -> None:
        self.training_seconds = 0.0
        self._began = time.perf_counter()
        self._step_began: float | None = None
        self._n_tokens = 0  # of the steps since the last reading
        self._recent: deque[tuple[float, int]] = deque(maxlen=20)  # (seconds, tokens) between two readings

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def recent_tokens_per_second(self) -> float:
        """Mean over the last 20 readings; 0 before the first."""
        return sum(tokens for _, tokens in self._recent) / max(sum(seconds for seconds, _ in self._recent), 1e-9)

    @property
    def trained(self) -> float:
        """Seconds of training steps until now, those since the last reading included."""
        return self.training_seconds + (time.perf_counter() - self._step_began if self._step_began is not None else 0.0)

    def resume(self) -> None:
        """A step begins at the end of the one before it, so loading and logging count."""
        self._step_began = self._step_began or time.perf_counter()

    def end_step(self, n_tokens: int) -> None:
        self._n_tokens += n_tokens

    def read(self) -> None:
        """Take the time of the steps since the last reading."""
        if self._n_tokens == 0:
            return
        now = time.perf_counter()
        seconds = now - (self._step_began or now)
        self.training_seconds += seconds
        self._recent.append((seconds, self._n_tokens))
        self._step_began, self._n_tokens = now, 0

    def pause(self) -> None:
        """The time until the next step is not training."""
        self._step_began = None

    def state(self) -> dict[str, float]:
        return {"seconds": self.seconds, "training_seconds": self.training_seconds}

    def load(self, state: dict[str, float]) -> None:
        self._began = time.perf_counter() - state["seconds"]
        self.training_seconds = state["training_seconds"]
