"""The trials of a sweep, in Optuna's journal: whatever ends a process, those that were recorded stay."""

import functools
import itertools
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.files import whole_file
from gptlab.sweep.definition import Definition
from gptlab.sweep.record import TrialRecord
from gptlab.sweep.space import Value, combinations
from gptlab.training.run_files import read_summary

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
NAME = "sweep"
VERDICT = "pruned at step"
"""The attribute of a trial that is to be pruned, whatever becomes of its process then."""
FAILURE = "failure"
"""The attribute of a trial that has failed: why."""
LOCK_IS_STALE = 10
"""Seconds. A process that was killed as it wrote to the journal has left its lock."""


@dataclass(frozen=True)
class Trial:
    """What is tried next: its number, a value of each swept key, and whether an earlier session has begun it."""

    number: int
    values: dict[str, Value]
    goes_on: bool = False


class Study:
    """What a sweep has tried, and what it tries next.

    Trials are proposed in the order of their numbers. A proposal follows from the seed, the number and the trials that
    have ended: a sweep that is gone on with proposes what it would have proposed.

    Args:
        sweep_dir: the sweep's directory.
        definition: what the sweep is.
        n_jobs: how many trials are under way at once, which TPE keeps apart.
    """

    def __init__(self, sweep_dir: Path, definition: Definition, *, n_jobs: int) -> None:
        self.sweep_dir = sweep_dir
        self.definition = definition
        self._n_jobs = n_jobs
        self._study = _open(sweep_dir, definition)
        self._distributions = {entry.key: entry.distribution() for entry in definition.parameters}
        self._records: dict[int, TrialRecord] = {}
        self.under_way()  # so that all trials have all their values from here on

    def under_way(self) -> list[Trial]:
        """Those that have begun and not ended: of a sweep that was stopped."""
        return [self._with_all_values(trial) for trial in self._trials() if trial.state.name == "RUNNING"]

    def _with_all_values(self, trial: "optuna.trial.FrozenTrial") -> Trial:
        """Of a sweep that was killed as it wrote down a proposal, the rest of its values is proposed again."""
        if not self._distributions.keys() <= trial.params.keys():
            import optuna

            self._study.sampler = self._sampler(trial.number)
            proposal = optuna.trial.Trial(self._study, trial._trial_id)
            for key, distribution in self._distributions.items():
                proposal._suggest(key, distribution)
            trial = self._trials()[trial.number]
        return Trial(trial.number, self._values(trial), goes_on=True)

    @property
    def n_trials(self) -> int:
        """How many have begun, whatever became of them."""
        return len(self._begun())

    def propose(self) -> Trial | None:
        """The next one; None where a grid has no more."""
        if self.definition.sampler != "grid":
            self._study.sampler = self._sampler(self.n_trials)
        elif self.n_trials == len(self._trials()):  # else one is waiting, of a sweep that was killed just here
            values = next(itertools.islice(combinations(self.definition.parameters), self.n_trials, None), None)
            if values is None:
                return None
            self._study.enqueue_trial(values)
        trial = self._study.ask(fixed_distributions=self._distributions)
        return Trial(trial.number, self._values(trial))

    def record(self, number: int, status: str, reason: str | None) -> TrialRecord:
        """Write down how a trial has ended: finished, pruned, failed, or interrupted, which is to go on.

        A finished one without a finite value of the metric has failed. Samplers forget what they are told has failed,
        and would try it again and again: they are told the worst value so far, or "pruned" as long as there is none.
        """
        from optuna.trial import TrialState

        trial = self._trials()[number]
        summary = read_summary(self.run_dir(number))
        value = summary.get(self.definition.metric)
        if status == "finished" and not (isinstance(value, int | float) and math.isfinite(value)):
            status, reason = "failed", f"{self.definition.metric} is {value} in its summary.json, and no number"
        if status == "failed":
            value = self._worst_value()
            self._storage.set_trial_user_attr(trial._trial_id, FAILURE, reason or "it failed")
        elif FAILURE in trial.user_attrs:  # of a sweep that was killed just here, and now the trial has come further
            self._storage.set_trial_user_attr(trial._trial_id, FAILURE, None)
        if status == "pruned" or (status == "failed" and value is None):
            self._study.tell(number, state=TrialState.PRUNED)
        elif status != "interrupted":
            self._study.tell(number, value)
        self._records.pop(number, None)
        return self.records()[number]

    def _worst_value(self) -> float | None:
        values = [record.metric for record in self.records() if record.status == "finished"]
        worst = max if self.definition.direction == "minimize" else min
        return worst((value for value in values if value is not None), default=None)

    def records(self) -> list[TrialRecord]:
        """All trials that have begun, in the order of their numbers."""
        for trial in self._begun():
            if trial.number not in self._records or not trial.state.is_finished():
                self._records[trial.number] = self._record(trial)
        return [self._records[number] for number in sorted(self._records)]

    def run_dir(self, number: int) -> Path:
        return self.sweep_dir / str(number)

    def _record(self, trial: "optuna.trial.FrozenTrial") -> TrialRecord:
        run_dir = self.run_dir(trial.number)
        summary = read_summary(run_dir)
        under_way = "interrupted" if summary.get("status") == "interrupted" else "running"
        status = {"COMPLETE": "finished", "PRUNED": "pruned"}.get(trial.state.name, under_way)
        reason = trial.user_attrs.get(FAILURE) if trial.state.is_finished() else None
        status = "failed" if reason is not None else status
        metric = trial.value if status == "finished" else summary.get(self.definition.metric)
        return TrialRecord(trial.number, status, reason, self._values(trial), metric, summary, run_dir)

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """A new one for each trial, so that no state is lost with a process."""
        import numpy as np
        from optuna import samplers

        seed = int(np.random.SeedSequence((self.definition.seed, number)).generate_state(1)[0])
        known: dict[str, Callable[[], samplers.BaseSampler]] = {
            "tpe": lambda: samplers.TPESampler(seed=seed, multivariate=True, constant_liar=self._n_jobs > 1),
            "random": lambda: samplers.RandomSampler(seed=seed),
            "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
            "gp": lambda: samplers.GPSampler(seed=seed),
            "grid": lambda: samplers.RandomSampler(seed=seed),  # has nothing to sample: its trials bring their values
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, they say
            return known[self.definition.sampler]()

    def _values(self, trial: Any) -> dict[str, Value]:
        return {key: trial.params[key] for key in self._distributions if key in trial.params}

    def _begun(self) -> "list[optuna.trial.FrozenTrial]":
        return [trial for trial in self._trials() if trial.state.name != "WAITING"]

    def _trials(self) -> "list[optuna.trial.FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    @property
    def _storage(self) -> "optuna.storages.BaseStorage":
        return self._study._storage


def reporter(sweep_dir: Path, number: int) -> tuple[str, Callable[[float, int], bool]] | None:
    """For the process of a trial: what it reports at each validation, and to whom; None where nothing is pruned.

    What is returned second takes the metric's value and the step, and says whether the trial is to be pruned.
    """
    if not (sweep_dir / JOURNAL).exists():
        return None  # of Hydra's own sweeper
    definition = Definition.read(sweep_dir)
    if definition.pruner is None:
        return None

    @functools.cache
    def trial() -> "optuna.trial.Trial":
        import optuna

        study = _open(sweep_dir, definition)
        return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def report(value: float, step: int) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a step that was reported before the run was interrupted
            trial().report(value, step)
        if VERDICT not in trial().user_attrs and trial().should_prune():
            trial().set_user_attr(VERDICT, step)  # asked again, a pruner may say something else
        return VERDICT in trial().user_attrs

    return definition.metric, report


def mend(sweep_dir: Path) -> None:
    """Take out of a journal what a crash, or a full disk, has left of a line."""
    journal = sweep_dir / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    whole = [line for line in lines if _is_whole(line)]
    if whole != lines:
        with whole_file(journal) as file:
            file.writelines(whole)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


def _open(sweep_dir: Path, definition: Definition) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = str(sweep_dir / JOURNAL)
    storage = JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path, grace_period=LOCK_IS_STALE)))
    return optuna.create_study(
        study_name=NAME,
        storage=storage,
        direction="minimize" if definition.direction == "minimize" else "maximize",
        pruner=_pruner(definition),
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )


def _pruner(definition: Definition) -> "optuna.pruners.BasePruner":
    """Resources are steps: the least is that of the first validation."""
    import optuna

    least, most = min(definition.validate_every, definition.max_steps), definition.max_steps
    pruners: dict[str | None, Callable[[], optuna.pruners.BasePruner]] = {
        None: optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "successive_halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=least),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=least, max_resource=most),
    }
    return pruners[definition.pruner]()
