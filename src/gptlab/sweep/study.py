"""The trials of a sweep in Optuna's journal, from which a sweep is resumed."""

import itertools
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.sweep.definition import Definition
from gptlab.sweep.trial import Trial, TrialRecord, TrialResult
from gptlab.training.run_files import read_summary

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
NAME = "sweep"
FAILURE = "failure"
"""Attribute of a trial in the journal: the reason why it failed."""
ENOUGH = 12
"""Finished trials that importances need: with fewer, the order of the keys is mostly chance."""


class Study:
    """What a sweep has tried, and what it tries next.

    Trials are proposed in the order of their numbers. A proposal depends on the seed, the number and the results so
    far, so that a resumed sweep proposes what the whole one would have proposed. `sweep_dir` is absolute.
    """

    def __init__(self, sweep_dir: Path, definition: Definition) -> None:
        self.sweep_dir = sweep_dir
        self.definition = definition
        self._space = definition.parameters
        _drop_unfinished_line(sweep_dir / JOURNAL)
        self._study, self._storage = _open(sweep_dir, definition)
        self.unfinished()  # completes the values of a trial that was being proposed when the sweep was killed

    def unfinished(self) -> list[Trial]:
        """The trials that an earlier session has started and that have not ended."""
        numbers = [frozen.number for frozen in self._frozen() if not frozen.state.is_finished()]
        return [self._trial(number, resumes=True) for number in numbers]

    @property
    def n_started(self) -> int:
        """The number of trials that have started, whatever became of them."""
        return len(self._frozen())

    def propose(self) -> Trial:
        """Start the next trial."""
        return self._trial(self.n_started, resumes=False)

    def _trial(self, number: int, *, resumes: bool) -> Trial:
        self._study.sampler = self._sampler(number)
        asked = _optuna_trial(self._study, self._storage, number) if resumes else self._study.ask()
        overrides = [override for entry in self._space for override in entry.overrides(entry.suggest(asked))]
        return Trial(number, (*self.definition.arguments, *overrides), self.sweep_dir / str(number), resumes)

    def record(self, number: int, result: TrialResult) -> TrialRecord:
        """Write down a result. An interrupted trial stays open. A finished one without a finite metric has failed.

        Samplers ignore what Optuna calls failed, and would propose it again. They are told the worst value so far, or
        "pruned" as long as no trial has finished.
        """
        from optuna.trial import TrialState

        value = read_summary(self.sweep_dir / str(number)).get(self.definition.metric)
        status, reason = result.status, result.reason
        if status == "finished" and not (isinstance(value, int | float) and math.isfinite(value)):
            status, reason = "failed", f"{self.definition.metric} in its summary.json is {value}, not a number"
        if status == "failed":
            finished = [record.metric for record in self.records() if record.status == "finished"]
            worst = max if self.definition.direction == "minimize" else min
            value = worst((metric for metric in finished if metric is not None), default=None)
        if status != "interrupted":
            trial = _optuna_trial(self._study, self._storage, number)
            trial.set_user_attr(FAILURE, reason if status == "failed" else None)
            if status == "pruned" or value is None:
                self._study.tell(number, state=TrialState.PRUNED)
            else:
                self._study.tell(number, value)
        return self.records()[number]

    def records(self) -> list[TrialRecord]:
        """All trials that have started, in the order of their numbers."""
        return [self._record(frozen) for frozen in self._frozen()]

    def importances(self) -> dict[str, float]:
        """Share of each key in what distinguishes the best trials (PED-ANOVA); empty if there are too few to tell."""
        import optuna

        finished = [record for record in self.records() if record.status == "finished"]
        varied = [entry for entry in self._space if len({record.values[entry.key] for record in finished}) > 1]
        if len(finished) < ENOUGH or len(varied) < 2 or len({record.metric for record in finished}) < 2:
            return {}
        quantile = max(0.1, 5 / len(finished))  # the best tenth of the trials, at least five, compared with all
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of trials that tie
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
            return optuna.importance.get_param_importances(self._study, evaluator=evaluator)

    def _frozen(self) -> "list[optuna.trial.FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _record(self, frozen: "optuna.trial.FrozenTrial") -> TrialRecord:
        run_dir = self.sweep_dir / str(frozen.number)
        summary = read_summary(run_dir)
        unfinished = "interrupted" if summary.get("status") == "interrupted" else "running"
        status = {"COMPLETE": "finished", "PRUNED": "pruned"}.get(frozen.state.name, unfinished)
        reason = frozen.user_attrs.get(FAILURE) if frozen.state.is_finished() else None
        if reason is not None:
            status = "failed"
        values = {entry.key: frozen.params[entry.key] for entry in self._space if entry.key in frozen.params}
        metric = frozen.value if status == "finished" else summary.get(self.definition.metric)
        return TrialRecord(frozen.number, status, reason, values, metric, summary, run_dir)

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """A new sampler for each trial, so that its state does not end with the process."""
        import numpy as np
        from optuna import samplers
        from optuna.exceptions import ExperimentalWarning

        seed = int(np.random.SeedSequence((self.definition.seed, number)).generate_state(1)[0])
        warnings.simplefilter("ignore", ExperimentalWarning)
        match self.definition.sampler:
            case "tpe":
                return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=self.definition.n_jobs > 1)
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed)
            case "gp":
                return samplers.GPSampler(seed=seed)
        at_random = samplers.RandomSampler(seed=seed)
        if self.definition.sampler == "random":
            return at_random
        combinations = itertools.product(*(entry.values for entry in self._space))  # the last key changes fastest
        values = next(itertools.islice(combinations, number, None))
        return samplers.PartialFixedSampler(dict(zip(self.definition.space, values, strict=True)), at_random)


def _open(sweep_dir: Path, definition: Definition) -> "tuple[optuna.Study, optuna.storages.JournalStorage]":
    """The sweep's study, which any of its processes may open."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = str(sweep_dir / JOURNAL)
    storage = optuna.storages.JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
    direction, pruner = definition.direction, _pruner(definition)
    study = optuna.create_study(
        study_name=NAME, storage=storage, direction=direction, pruner=pruner, load_if_exists=True
    )
    return study, storage


def _optuna_trial(study: "optuna.Study", storage: "optuna.storages.JournalStorage", number: int) -> "optuna.Trial":
    import optuna

    study_id = storage.get_study_id_from_name(NAME)
    return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _pruner(definition: Definition) -> "optuna.pruners.BasePruner":
    """The resource of a pruner is a number of steps, at least those of the first validation."""
    from optuna import pruners

    least, most = min(definition.validate_every, definition.max_steps), definition.max_steps
    match definition.pruner:
        case "median":
            return pruners.MedianPruner()
        case "successive_halving":
            return pruners.SuccessiveHalvingPruner(min_resource=least)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=least, max_resource=most)
    return pruners.NopPruner()


def report_metric(sweep_dir: Path, number: int, definition: Definition, value: float, step: int) -> bool:
    """Called in a trial's process: report the metric at a step. Returns whether to prune the trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resumed trial may report a step again
        trial = _optuna_trial(*_open(sweep_dir, definition), number)
        trial.report(value, step)
        return trial.should_prune()


def _drop_unfinished_line(journal: Path) -> None:
    """Remove the part of a line that a power failure left: Optuna reads no journal with such a line in the middle."""
    content = journal.read_bytes() if journal.exists() else b""
    if not content.endswith(b"\n"):
        journal.write_bytes(content[: content.rfind(b"\n") + 1])
