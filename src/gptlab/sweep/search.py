"""The loop of a sweep: propose a trial, run it, record its result."""

import csv
import io
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from gptlab.files import write_whole
from gptlab.sweep.definition import Definition
from gptlab.sweep.processes import Stopped
from gptlab.sweep.study import Study
from gptlab.sweep.trial import ENDED, Trial, TrialRecord, TrialResult, best_of, recorded_result

log = logging.getLogger("gptlab")

MEASURED = ("val_loss", "val_perplexity", "best_val_loss", "budget", "steps", "tokens", "seconds")
ENOUGH_TO_JUDGE = 5
"""Trials that must have ended before their failures stop the sweep."""

Runner = Callable[[Iterator[Trial]], Iterator[tuple[int, TrialResult]]]
"""Takes trials when it has room for them; yields numbers and results in the order in which trials end."""


class Search:
    """A sweep that is running."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.definition = study.definition
        self._started = time.monotonic()
        self._n_ended_before = len(self._ended())

    def run(self, run_trials: Runner) -> int | None:
        """Run the trials that are left. Returns the signal that stopped the sweep; None if none did."""
        if self._n_ended_before:
            log.info("resuming: %d of %d trials have ended", self._n_ended_before, self.definition.n_planned)
        try:
            for number, result in run_trials(self._trials()):
                self._record(number, result)
        except Stopped as stop:
            return stop.args[0]
        except KeyboardInterrupt:  # from a launcher that does not handle it
            return signal.SIGINT
        return None

    @property
    def has_too_many_failures(self) -> bool:
        statuses = [record.status for record in self._ended()]
        return statuses.count("failed") > self.definition.max_failed * len(statuses)

    @property
    def is_hopeless(self) -> bool:
        """So many trials have failed that the sweep stops."""
        return len(self._ended()) >= min(ENOUGH_TO_JUDGE, self.definition.n_planned) and self.has_too_many_failures

    def _ended(self) -> list[TrialRecord]:
        return [record for record in self.study.records() if record.status in ENDED]

    def _trials(self) -> Iterator[Trial]:
        for trial in self.study.unfinished():
            if (result := recorded_result(trial.run_dir)) is not None:  # the sweep was killed before it recorded this
                self._record(trial.number, result)
            else:
                yield trial
        while self.study.n_started < self.definition.n_planned and not self.is_hopeless:
            yield self.study.propose()

    def _record(self, number: int, result: TrialResult) -> None:
        record = self.study.record(number, result)
        write_results(self.study.sweep_dir / "results.csv", self.definition, self.study.records())
        if result.status != "interrupted":
            log.info("%s", self._line(record))

    def _line(self, record: TrialRecord) -> str:
        """`trial   3  finished   val_loss 5.4829  optimizer.lr=0.0011  [4/24]  best 5.4271 (trial 1)  ETA 0:02:35`."""
        ended, n_planned = self._ended(), self.definition.n_planned
        result = f"{self.definition.metric} {record.metric:.4f}" if record.metric is not None else ""
        result = record.reason.partition(";")[0] if record.reason is not None else result
        tried = " ".join(f"{key}={short(value)}" for key, value in record.values.items())
        best = best_of(ended, direction=self.definition.direction)
        so_far = f"best {best.metric:.4f} (trial {best.number})" if best is not None else ""
        seconds = time.monotonic() - self._started
        left = seconds / max(1, len(ended) - self._n_ended_before) * (n_planned - len(ended))
        when = f"ETA {timedelta(seconds=round(left))}" if left > 0 else f"took {timedelta(seconds=round(seconds))}"
        line = (f"trial {record.number:>3}", f"{record.status:<9}", result, tried, f"[{len(ended)}/{n_planned}]")
        return "  ".join(filter(None, [*line, so_far, when]))


def write_results(path: Path, definition: Definition, records: list[TrialRecord]) -> None:
    """Write results.csv: a row for each trial, losses in nats per token, unknown values empty."""
    keys, measured = list(definition.space), list(dict.fromkeys((*MEASURED, definition.metric)))
    rows: list[list[Any]] = [["trial", "status", "reason", *keys, *measured, "run_dir"]]
    for record in records:
        known = record.summary if record.metric is None else {**record.summary, definition.metric: record.metric}
        numbers = [known.get(name) for name in measured]
        row = [record.number, record.status, record.reason, *map(record.values.get, keys), *numbers, record.run_dir]
        rows.append([" ".join(cell.splitlines()) if isinstance(cell, str) else cell for cell in row])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue())


def short(value: Any, digits: int = 4) -> str:
    """A value as in an override, a float with some digits: 0.00031416 -> 0.0003142, 1000000.0 -> 1e6."""
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa
