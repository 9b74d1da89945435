"""How much each swept key has to do with whether a trial is one of the best."""

import warnings
from typing import TYPE_CHECKING

from gptlab.sweep.record import Axis, TrialRecord
from gptlab.sweep.report.scale import is_number, text_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ENOUGH = 12
"""Finished trials. With fewer the order of the keys is mostly chance: on a loss that a learning rate decides, it came
out on top in 13 of 15 random searches of 12 trials, in 9 of 15 of 8."""
BEST_SHARE, BEST_COUNT = 0.1, 5
"""The best tenth of the trials is compared with all, or the best five, where these are more, as Optuna advises."""


def importances(records: list[TrialRecord], axes: list[Axis], *, direction: str) -> dict[str, float] | str:
    """The share of each swept key in what sets the best trials apart, 0 to 1; in words, why there is none.

    PED-ANOVA (Watanabe et al., IJCAI 2023) compares where the best trials lie on an axis with where all do. It looks at
    ranks only, so a diverged trial is but one of the worse ones, and it needs nothing but numpy.
    """
    finished = [record for record in records if record.status == "finished" and is_number(record.metric)]
    if len(finished) < ENOUGH:
        return f"It takes {ENOUGH} finished trials to tell, and {len(finished)} have finished."
    varied = [axis for axis in axes if len({text_of(record.values[axis.key]) for record in finished}) > 1]
    if len(varied) < 2:
        return "One key alone was varied: all that differs comes from it." if varied else "No key was varied."
    if len({record.metric for record in finished}) == 1:
        return "All trials came out the same."
    found = _ped_anova(finished, varied, direction=direction)
    return {axis.key: found.get(axis.key, 0.0) for axis in axes}


def _ped_anova(finished: list[TrialRecord], axes: list[Axis], *, direction: str) -> dict[str, float]:
    import optuna

    names = {axis.key for axis in axes if not _is_range(axis, finished)}
    distributions = {axis.key: _distribution(axis, finished) for axis in axes}
    trials = []
    for record in finished:
        params = {key: text_of(record.values[key]) if key in names else record.values[key] for key in distributions}
        trials.append(optuna.trial.create_trial(value=record.metric, params=params, distributions=distributions))
    quantile = max(BEST_SHARE, BEST_COUNT / len(finished))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study that it creates
    try:
        study = optuna.create_study(direction="minimize" if direction == "minimize" else "maximize")
        study.add_trials(trials)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of trials that tie
            return optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _is_range(axis: Axis, finished: list[TrialRecord]) -> bool:
    """Whether its values are numbers of a range; all else are names."""
    return axis.choices is None and all(is_number(record.values[axis.key]) for record in finished)


def _distribution(axis: Axis, finished: list[TrialRecord]) -> "BaseDistribution":
    """A range reaches from the smallest to the largest number that was tried."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    values = [record.values[axis.key] for record in finished]
    if _is_range(axis, finished):
        low, high = float(min(values)), float(max(values))
        return FloatDistribution(low, high, log=axis.is_log and low > 0)
    return CategoricalDistribution(tuple(dict.fromkeys(text_of(value) for value in values)))
