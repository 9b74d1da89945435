"""The loop of a sweep: propose, run, record, until there are enough trials or no hope."""

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from gptlab.sweep.board import write_board
from gptlab.sweep.definition import Definition
from gptlab.sweep.display import Display
from gptlab.sweep.processes import Stopped
from gptlab.sweep.record import ENDED, TrialRecord, best_of
from gptlab.sweep.results import RESULTS, write_results
from gptlab.sweep.study import Study, Trial
from gptlab.sweep.trial import OUTPUT, End

log = logging.getLogger("gptlab")

ENOUGH_TO_JUDGE = 5
"""Trials that must have ended before their share of failures ends a sweep."""

Runner = Callable[[Iterator[Trial]], Iterator[tuple[int, End]]]
"""Takes trials as it has room for them, and yields the number and the end of each, in the order in which they end."""


class Search:
    """A sweep under way.

    Args:
        sweep_dir: its directory, which no other process writes to.
        definition: what it is.
        n_trials: how many trials there are to be, failed ones included; None for all of a grid.
        n_jobs: how many are under way at once.
        max_failed: the share of failed trials above which there is no hope.
    """

    def __init__(
        self, sweep_dir: Path, definition: Definition, *, n_trials: int | None, n_jobs: int, max_failed: float
    ) -> None:
        self.definition = definition
        self.study = Study(sweep_dir, definition, n_jobs=n_jobs)
        self.n_trials = min(n for n in (n_trials, definition.n_combinations) if n is not None)
        self.max_failed = max_failed
        self._sweep_dir = sweep_dir
        self._axes = [entry.axis for entry in definition.parameters]
        self._display = Display(
            n_trials=self.n_trials, n_jobs=n_jobs, metric=definition.metric, direction=definition.direction
        )

    def run(self, runner: Runner) -> int | None:
        """Run what is left to run. Returns the signal that stopped it; None where none did."""
        self._say_what_is_done()
        self._write_results()
        write_board(self._sweep_dir, self._axes, metric=self.definition.metric)
        with self._display.showing(len(_ended(self.study.records()))):
            try:
                for number, end in runner(self._trials()):
                    record = self.study.record(number, end.status, end.reason)
                    self._write_results()
                    if end.status != "interrupted":
                        self._display.ended(record, self.study.records())
            except Stopped as stop:
                return stop.number
            except KeyboardInterrupt:  # of a launcher that lets it through
                return signal.SIGINT
        return None

    def _say_what_is_done(self) -> None:
        """Of a sweep that goes on."""
        records, under_way = self.study.records(), len(self.study.under_way())
        done, best = len(_ended(records)), best_of(records, direction=self.definition.direction)
        if done >= self.n_trials:
            more = "" if done == self.definition.n_combinations else ": a larger hydra.sweeper.n_trials goes on"
            log.info("all %d have ended%s", done, more)
        elif records:
            so_far = f", best {best.metric:.4f} (trial {best.number})" if best is not None else ""
            log.info("going on: %d have ended%s, %d were under way", done, so_far, under_way)

    def words(self, record: TrialRecord) -> list[str]:
        """What a trial tries, as overrides."""
        entries = {entry.key: entry for entry in self.definition.parameters}
        return [entries[key].override(value) for key, value in record.values.items()]

    @property
    def is_hopeless(self) -> bool:
        """Whether so many have failed that the rest is not worth its time."""
        ended = _ended(self.study.records())
        return len(ended) >= min(ENOUGH_TO_JUDGE, self.n_trials) and _share_of_failures(ended) > self.max_failed

    @property
    def exit_status(self) -> int:
        """1 where too many have failed, or where none has finished."""
        ended = _ended(self.study.records())
        has_result = any(record.status == "finished" for record in ended)
        return 0 if has_result and _share_of_failures(ended) <= self.max_failed else 1

    def _trials(self) -> Iterator[Trial]:
        """Those of an earlier session that have not ended, then new ones."""
        yield from map(self._begun, self.study.under_way())
        while self.study.n_trials < self.n_trials and not self.is_hopeless:
            trial = self.study.propose()
            if trial is None:
                return
            yield self._begun(trial)

    def _begun(self, trial: Trial) -> Trial:
        self._display.begins(trial.number, self.study.run_dir(trial.number) / OUTPUT)
        return trial

    def _write_results(self) -> None:
        write_results(self._sweep_dir / RESULTS, self.study.records(), self._axes, metric=self.definition.metric)


def _ended(records: list[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if record.status in ENDED]


def _share_of_failures(ended: list[TrialRecord]) -> float:
    return sum(record.status == "failed" for record in ended) / len(ended) if ended else 0.0
