"""The trials of a sweep, and what is left of them when a process ends."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.sweep.definition import PRUNERS, SAMPLERS, Definition
from gptlab.sweep.study import JOURNAL, Study, report_metric
from gptlab.sweep.trial import Trial, TrialResult

DEFINITION = Definition(
    arguments=["tokenizer=char"],
    space={"optimizer.lr": {"log_uniform": [1e-5, 1.0]}, "model.d_model": {"choice": [64, 128]}},
    sampler="tpe",
    pruner=None,
    n_trials=30,
    n_jobs=1,
    max_failed=0.5,
    seed=1,
    metric="val_loss",
    direction="minimize",
    validate_every=10,
    max_steps=100,
    command=["sweep=x"],
)
GRID = dataclasses.replace(
    DEFINITION, sampler="grid", space={"seed": {"grid": [3, 1, 2]}, "model/attention": {"grid": ["plain", "fused"]}}
)
SEARCHERS = [sampler for sampler in SAMPLERS if sampler != "grid"]


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
    first = searched(tmp_path / "first", changed(sampler=sampler), 14)
    again = searched(tmp_path / "again", changed(sampler=sampler), 14, forgets=True)
    other = searched(tmp_path / "other", changed(sampler=sampler, seed=2), 3)
    assert [trial.number for trial in first] == list(range(14))
    assert [trial.arguments for trial in first] == [trial.arguments for trial in again]
    assert [trial.arguments for trial in first[:3]] != [trial.arguments for trial in other]
    assert len({values(trial)["optimizer.lr"] for trial in first}) > 10


@pytest.mark.parametrize(("sampler", "most"), [("tpe", 5), ("gp", 3)])  # at random it is 8
def test_a_search_stays_away_from_what_fails(sampler: str, most: int, tmp_path: Path) -> None:
    study = Study(tmp_path, changed(sampler=sampler, space={"optimizer.lr": {"log_uniform": [1e-4, 10.0]}}))
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
    assert sum(diverged[10:]) <= most


def test_tpe_comes_near_the_best_of_a_parabola(tmp_path: Path) -> None:
    best = min(searched(tmp_path / "sweep", DEFINITION, 25), key=loss)
    assert 1.5e-3 < float(values(best)["optimizer.lr"]) < 6e-3


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


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a sweep with five trials that have ended."""
    place = tmp_path_factory.mktemp("journal") / "sweep"
    searched(place, DEFINITION, 5)
    return place / JOURNAL


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_whatever_a_crash_leaves_of_the_journal_s_last_line_the_trials_before_it_stay(
    journal: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = journal.read_bytes()
    cut = data.draw(st.integers(content.index(b"\n") + 1, len(content)))
    place = tmp_path_factory.mktemp("cut")
    for run in journal.parent.glob("[0-9]"):
        shutil.copytree(run, place / run.name)
    (place / JOURNAL).write_bytes(content[:cut])
    study = Study(place, DEFINITION)
    finished = sum(record.status == "finished" for record in study.records())
    whole = content[:cut].count(b'"state":1')  # as Optuna writes it of a trial that is complete
    assert finished in (whole, whole - (not content[:cut].endswith(b"\n")))
    trial = study.propose()
    end(study, trial, val_loss=1.0)


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
    bad = [lambda step: 9 + 1 / step] * 12
    steps = reported(tmp_path, changed(pruner=pruner), [*good, *bad, lambda step: 0.5 + 1 / step])
    assert steps[-1] is None
    assert sum(step is not None for step in steps[6:-1]) >= 6
    assert [record.status for record in Study(tmp_path, DEFINITION).records()] == [
        "finished" if step is None else "pruned" for step in steps
    ]


def test_a_step_that_was_reported_before_an_interruption_may_be_reported_again(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    study = Study(tmp_path, changed(pruner="median"))
    trial = study.propose()
    for _ in range(2):
        assert not report_metric(tmp_path, trial.number, changed(pruner="median"), 3.0, 10)
    assert not recwarn.list


def test_what_decides_is_most_important(tmp_path: Path) -> None:
    searched(tmp_path / "sweep", changed(sampler="random"), 11)
    study = Study(tmp_path / "sweep", changed(sampler="random"))
    assert study.importances() == {}, "too few trials"
    for _ in range(19):
        trial = study.propose()
        end(study, trial, val_loss=loss(trial))
    shares = study.importances()
    assert max(shares, key=shares.__getitem__) == "optimizer.lr"
    assert sum(shares.values()) == pytest.approx(1)


def test_trials_that_are_equal_have_no_importances(tmp_path: Path) -> None:
    study = Study(tmp_path, DEFINITION)
    for _ in range(13):
        trial = study.propose()
        end(study, trial, val_loss=1.0)
    assert study.importances() == {}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"space": {**DEFINITION.space, "seed": {"int": [1, 5]}}},
            "seed was 1, and is {'int': [1, 5]} now",
        ),
        (
            {"space": {"optimizer.lr": {"log_uniform": [1e-5, 1.0]}}},
            "model.d_model was {'choice': [64, 128]}, and is None now",
        ),
        ({"sampler": "random"}, "sampler was tpe, and is random now"),
        ({"max_steps": 50}, "max_steps was 100, and is 50 now"),
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
    for sampler, package in (("cmaes", "cmaes"), ("gp", "scipy")):
        with pytest.raises(ValueError) as error:
            changed(sampler=sampler)
        assert str(error.value) == f"sampler={sampler} needs the package {package}: pip install 'gptlab[samplers]'"
