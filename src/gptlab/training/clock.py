"""How long a run has taken, and how fast it goes."""

import time
from collections import deque


class Clock:
    """Seconds of a run, and of its training steps alone; survives a checkpoint.

    `seconds` includes validation and saving; tokens per second are those of training steps only.
    """

    def __init__(self) -> None:
        self._before = 0.0  # seconds of the sessions before this one
        self._began = time.perf_counter()
        self._training_seconds = 0.0
        self._tokens = 0
        self._last_end: float | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=20)

    @property
    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._began

    @property
    def tokens_per_second(self) -> float:
        """Mean over all training steps."""
        return self._tokens / self._training_seconds if self._training_seconds else 0.0

    @property
    def recent_tokens_per_second(self) -> float:
        """Mean over the last 20 steps."""
        seconds = sum(seconds for seconds, _ in self._recent)
        return sum(tokens for _, tokens in self._recent) / seconds if seconds else 0.0

    def start_step(self) -> None:
        if self._last_end is None:
            self._last_end = time.perf_counter()

    def end_step(self, n_tokens: int) -> None:
        """A step lasts from the end of the one before: loading and logging count."""
        assert self._last_end is not None
        now = time.perf_counter()
        self._training_seconds += now - self._last_end
        self._tokens += n_tokens
        self._recent.append((now - self._last_end, n_tokens))
        self._last_end = now

    def pause(self) -> None:
        """What comes now, up to the next step, is no training."""
        self._last_end = None

    def state(self) -> dict[str, float]:
        return {"seconds": self.seconds, "training_seconds": self._training_seconds, "tokens": self._tokens}

    def load(self, state: dict[str, float]) -> None:
        self._before = state["seconds"]
        self._began = time.perf_counter()
        self._training_seconds = state["training_seconds"]
        self._tokens = int(state["tokens"])
