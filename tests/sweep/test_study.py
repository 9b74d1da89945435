"""The trials of a sweep, and what is left of them when a process ends."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab.sweep.definition import PRUNERS, Definition
from gptlab.sweep.study import JOURNAL, Study, report_metric
from gptlab.sweep.trial import Trial, TrialResult
from some_trials import LR, WIDTH, definition

DEFINITION = definition([LR, WIDTH], sampler="tpe", n_trials=30)
GRID = dataclasses.replace(
    DEFINITION, sampler="grid", space={"seed": {"grid": [3, 1, 2]}, "model/attention": {"grid": ["plain", "fused"]}}
)
SEARCHERS = ["tpe", "random", *(pytest.param(sampler, marks=pytest.mark.slow) for sampler in ("cmaes", "gp"))]


def changed(**values: Any) -> Definition:
    return dataclasses.replace(DEFINITION, **values)


def end(study: Study, trial: Trial, **summary: Any) -> None:
    """What a trial's process leaves, and what the sweep does then."""
    trial.run_dir.mkdir(exist_ok=True)
    (trial.run_dir / "summary.json").write_text(json.dumps({"status": "finished", **summary}))
    study.record(trial.number, TrialResult(summary.get("status", "finished")))


def values(trial: Trial) -> dict[str, str]:
    return dict(argument.split("=") for argument in trial.arguments)  # type: ignore[misc]


def loss(trial: Trial) -> float:
    """Best at 0.003."""
    return math.log10(float(values(trial)["optimizer.lr"]) / 3e-3) ** 2 + (values(trial)["model.d_model"] == "64") * 0.1


def searched(place: Path, definition: Definition, n: int, *, forgets: bool = False) -> list[Trial]:
    """So many trials; `forgets` opens the study anew for each, as if the sweep had been killed before it."""
    place.mkdir()
    study, trials = Study(place, definition), []
    for _ in range(n):
        study = Study(place, definition) if forgets else study
        trial = study.propose()
        end(study, trial, val_loss=loss(trial))
        trials.append(trial)
    return trials


@pytest.mark.parametrize("sampler", SEARCHERS)
def test_the_same_seed_proposes_the_same_trials_also_when_the_sweep_is_stopped_between_them(
    sampler: str, tmp_path: Path
) -> None:
    first = searched(tmp_path / "first", changed(sampler=sampler), 12)
    again = searched(tmp_path / "again", changed(sampler=sampler), 12, forgets=True)
    other = searched(tmp_path / "other", changed(sampler=sampler, seed=2), 2)
    assert [trial.number for trial in first] == list(range(12))
    assert [trial.arguments for trial in first] == [trial.arguments for trial in again]
    assert [trial.arguments for trial in first[:2]] != [trial.arguments for trial in other]
    assert len({values(trial)["optimizer.lr"] for trial in first}) > 9


def test_a_search_stays_away_from_what_fails(tmp_path: Path) -> None:
    study = Study(tmp_path, changed(space={"optimizer.lr": {"log_uniform": [1e-4, 10.0]}}))
    diverged = []
    for _ in range(25):
        trial = study.propose()
        diverged.append(float(values(trial)["optimizer.lr"]) > 0.03)  # half of the range
        if diverged[-1]:
            study.record(trial.number, TrialResult("failed", "diverged"))
        else:
            end(study, trial, val_loss=(math.log10(float(values(trial)["optimizer.lr"])) + 2) ** 2)
    assert [record.status for record in study.records()] == ["failed" if bad else "finished" for bad in diverged]
    assert {record.reason for record in study.records() if record.status == "failed"} == {"diverged"}
    assert sum(diverged[10:]) <= 5, "at random it is 8"


def test_a_grid_has_an_end_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    tried = []
    for _ in range(GRID.n_planned):
        study = Study(tmp_path, GRID)
        trial = study.propose()
        end(study, trial, val_loss=1.0)
        tried.append((int(values(trial)["seed"]), values(trial)["model/attention"]))
    assert tried == [(3, "plain"), (3, "fused"), (1, "plain"), (1, "fused"), (2, "plain"), (2, "fused")]


def test_a_trial_that_was_running_is_resumed_with_its_number_and_values(tmp_path: Path) -> None:
    study = Study(tmp_path, DEFINITION)
    one, other = study.propose(), study.propose()
    end(study, other, val_loss=1.0)
    end(study, one, status="interrupted", val_loss=None)
    assert [(record.status, record.metric) for record in study.records()] == [("interrupted", None), ("finished", 1.0)]
    assert Study(tmp_path, DEFINITION).unfinished() == [dataclasses.replace(one, resumes=True)]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_trial_without_a_number_to_judge_it_by_has_failed(value: float | None, tmp_path: Path) -> None:
    study = Study(tmp_path, DEFINITION)
    trial = study.propose()
    end(study, trial, val_loss=value)
    (record,) = study.records()
    assert record.status == "failed"
    assert "val_loss" in (record.reason or "")


def test_a_line_of_the_journal_that_a_crash_has_cut_off_is_dropped(tmp_path: Path) -> None:
    searched(tmp_path / "sweep", DEFINITION, 2)
    journal = tmp_path / "sweep" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-7])
    study = Study(tmp_path / "sweep", DEFINITION)
    assert [record.status for record in study.records()] == ["finished", "running"]
    (trial,) = study.unfinished()
    end(study, trial, val_loss=1.0)
    assert [record.status for record in Study(tmp_path / "sweep", DEFINITION).records()] == ["finished"] * 2


def reported(place: Path, definition: Definition, curves: list[Callable[[int], float]]) -> list[int | None]:
    """The steps at which trials with these curves are pruned, one trial after the other; None for those that finish."""
    study, pruned = Study(place, definition), []
    for curve in curves:
        trial = study.propose()
        steps = range(definition.validate_every, definition.max_steps, definition.validate_every)
        step = next((step for step in steps if report_metric(place, trial.number, definition, curve(step), step)), None)
        pruned.append(step)
        end(study, trial, status="finished" if step is None else "pruned", val_loss=curve(step or definition.max_steps))
    return pruned


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_pruner_ends_what_does_badly_and_leaves_what_does_well(pruner: str, tmp_path: Path) -> None:
    good = [lambda step, best=best: best + 1 / step for best in (1.6, 1.5, 1.4, 1.3, 1.2, 1.1)]
    bad = [lambda step: 9 + 1 / step] * 6
    steps = reported(tmp_path, changed(pruner=pruner), [*good, *bad, lambda step: 0.5 + 1 / step])
    assert steps[-1] is None
    assert sum(step is not None for step in steps[6:-1]) >= 3
    assert [record.status for record in Study(tmp_path, DEFINITION).records()] == [
        "finished" if step is None else "pruned" for step in steps
    ]


def test_what_decides_is_most_important(tmp_path: Path) -> None:
    searched(tmp_path / "sweep", changed(sampler="random"), 11)
    study = Study(tmp_path / "sweep", changed(sampler="random"))
    assert study.importances() == {}, "too few trials"
    for _ in range(9):
        trial = study.propose()
        end(study, trial, val_loss=loss(trial))
    shares = study.importances()
    assert max(shares, key=shares.__getitem__) == "optimizer.lr"
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"space": {**DEFINITION.space, "seed": {"int": [1, 5]}}}, "seed was 1, and is {'int': [1, 5]} now"),
        ({"sampler": "random"}, "sampler was tpe, and is random now"),
        ({"arguments": ["tokenizer=bpe"]}, "arguments was ['tokenizer=char'], and is ['tokenizer=bpe'] now"),
    ],
)
def test_what_differs_between_two_sweeps_is_named(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    DEFINITION.write(tmp_path)
    assert Definition.read(tmp_path) == DEFINITION
    assert what in (Definition.read(tmp_path).difference(changed(**change)) or "")
    assert DEFINITION.difference(changed(command=["-m", "x"])) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sampler": "grid"}, "optimizer.lr is a range"),
        ({"space": {"seed": {"grid": [1, 2]}}}, "seed is a grid"),
        ({"space": {}}, "has nothing to search"),
        ({"sampler": "tpee"}, "did you mean tpe?"),
        ({"pruner": "asha"}, "pruner=asha is not one of median, successive_halving, hyperband"),
        ({"n_trials": 0}, "n_trials=0 must be at least 1"),
        ({"n_trials": None}, "never ends by itself"),
        ({"pruner": "median", "metric": "seconds"}, "needs a metric of validations"),
    ],
)
def test_a_space_that_the_sampler_cannot_search_is_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        changed(**change)
    assert what in str(error.value)


def test_a_sampler_that_lacks_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(sampler="cmaes")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    changed(sampler="tpe")
    with pytest.raises(ValueError) as error:
        changed(sampler="cmaes")
    assert str(error.value) == "sampler=cmaes needs the package cmaes: pip install 'gptlab[samplers]'"
