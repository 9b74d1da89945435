"""What a person sees of a sweep: a line per trial, and in a terminal how far it is."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gptlab.sweep.record import TrialRecord, best_of

log = logging.getLogger("gptlab")


class Display:
    """Lines for the trials that end, with the best so far and the time that is left.

    Args:
        n_trials: how many there will be.
        n_jobs: how many at once.
        metric: what they are judged by.
        direction: minimize or maximize.
    """

    def __init__(self, *, n_trials: int, n_jobs: int, metric: str, direction: str) -> None:
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.metric = metric
        self.direction = direction
        self._began = time.monotonic()
        self._ended_here = 0  # not in an earlier session
        self._bar: Progress | None = None

    @contextmanager
    def showing(self, n_done: int) -> Iterator[None]:
        """In a terminal, a bar for as long as the block runs."""
        console = Console(file=sys.stderr)
        if not console.is_terminal:
            yield
            return
        columns = (TextColumn("sweep"), BarColumn(), MofNCompleteColumn(), TextColumn("trials  {task.fields[now]}"))
        with Progress(*columns, console=console, transient=True) as self._bar:
            self._task = self._bar.add_task("sweep", total=self.n_trials, completed=n_done, now="")
            yield
        self._bar = None

    def ended(self, record: TrialRecord, records: list[TrialRecord]) -> None:
        """One more trial has ended; `records` are all."""
        self._ended_here += 1
        done = sum(known.status in ("finished", "pruned", "failed") for known in records)
        best = best_of(records, direction=self.direction)
        seconds = (time.monotonic() - self._began) / self._ended_here * max(0, self.n_trials - done)
        left = f"ETA {_clock(seconds)}" if done < self.n_trials else f"took {_clock(time.monotonic() - self._began)}"
        so_far = f"best {best.metric:.4f} (trial {best.number})  " if best is not None else ""
        log.info("%s  [%d/%d]  %s%s", self._line(record), done, self.n_trials, so_far, left)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, now=f"{so_far}{left}")

    def _line(self, record: TrialRecord) -> str:
        tried = " ".join(f"{key}={_short(value)}" for key, value in record.values.items())
        result = f"{self.metric} {record.metric:.4f}" if record.metric is not None and record.status != "failed" else ""
        if record.status == "pruned":
            result += f" at step {record.summary.get('steps', 0):,}"
        what = record.reason.partition(";")[0] if record.reason is not None else result  # results.csv has all of it
        return "  ".join(filter(None, [f"trial {record.number:>3}", f"{record.status:<9}", what, tried]))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
