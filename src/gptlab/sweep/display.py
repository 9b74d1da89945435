"""What a person sees of a sweep: a line per trial, and in a terminal how far it is."""

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from gptlab.sweep.record import ENDED, TrialRecord, best_of

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
        self._under_way: dict[int, Path] = {}
        self._bar: Progress | None = None

    @contextmanager
    def showing(self, n_done: int) -> Iterator[None]:
        """In a terminal, a bar for as long as the block runs."""
        console = Console(file=sys.stderr)
        if not console.is_terminal:
            yield
            return
        counts = (TextColumn("sweep"), BarColumn(bar_width=20), MofNCompleteColumn())
        columns = (*counts, TextColumn("{task.fields[now]}"), _UnderWay(self._under_way))
        to_terminal = sys.stdout.isatty()  # else its lines go where it goes
        with Progress(*columns, console=console, transient=True, redirect_stdout=to_terminal) as self._bar:
            self._task = self._bar.add_task("sweep", total=self.n_trials, completed=n_done, now="")
            yield
        self._bar = None

    def begins(self, number: int, output: Path) -> None:
        """One more trial is under way; `output` is where its process says how far it is."""
        self._under_way[number] = output

    def ended(self, record: TrialRecord, records: list[TrialRecord]) -> None:
        """One more trial has ended; `records` are all."""
        self._ended_here += 1
        self._under_way.pop(record.number, None)
        done = sum(known.status in ENDED for known in records)
        best = best_of(records, direction=self.direction)
        seconds = (time.monotonic() - self._began) / self._ended_here * max(0, self.n_trials - done)
        left = f"ETA {_clock(seconds)}" if done < self.n_trials else f"took {_clock(time.monotonic() - self._began)}"
        so_far = f"best {best.metric:.4f} (trial {best.number})  " if best is not None else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, now=f"{so_far}{left}")
            log.info("%s", self._line(record))
        else:
            log.info("%s  [%d/%d]  %s%s", self._line(record), done, self.n_trials, so_far, left)

    def _line(self, record: TrialRecord) -> str:
        tried = " ".join(f"{key}={_short(value)}" for key, value in record.values.items())
        result = f"{self.metric} {record.metric:.4f}" if record.metric is not None and record.status != "failed" else ""
        if record.status == "pruned":
            result += f" at step {record.summary.get('steps', 0):,}"
        what = record.reason.partition(";")[0] if record.reason is not None else result  # results.csv has all of it
        return "  ".join(filter(None, [f"trial {record.number:>3}", f"{record.status:<9}", what, tried]))


class _UnderWay(ProgressColumn):
    """How far the trials are that are under way, as far as the line has room."""

    max_refresh = 1.0  # seconds between two looks into their files

    def __init__(self, outputs: dict[int, Path]) -> None:
        super().__init__()
        self._outputs = outputs

    def render(self, task: Task) -> Text:
        outputs = sorted(self._outputs.copy().items())
        return Text("  ".join(f"#{number} {_step(output)}" for number, output in outputs), overflow="ellipsis")


def _step(output: Path) -> str:
    """`40/100` of the last line that a trial has said of a step."""
    try:
        said = output.read_text(encoding="utf-8", errors="replace")
    except OSError:
        said = ""
    steps = re.findall(r"^step (\d+/\d+)", said, re.MULTILINE)
    return steps[-1] if steps else "begins"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
