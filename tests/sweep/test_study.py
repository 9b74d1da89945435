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

from gptlab.errors import UserError
from gptlab.sweep.definition import PRUNERS, SAMPLERS, Definition
from gptlab.sweep.study import FAILURE, JOURNAL, Study, Trial, mend, reporter

DEFINITION = Definition(
    words=["tokenizer=char"],
    space={"optimizer.lr": {"log_uniform": [1e-5, 1.0]}, "model.d_model": {"choice": [64, 128]}},
    config={"optimizer.betas": [0.9, 0.95], "schedule.warmup_steps": 20},
    sampler="tpe",
    pruner=None,
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
    run_dir = study.run_dir(trial.number)
    run_dir.mkdir(exist_ok=True)
    (run_dir / "summary.json").write_text(json.dumps({"status": "finished", **summary}))
    study.record(trial.number, summary.get("status", "finished"), None)


def loss(trial: Trial) -> float:
    """Best at 0.003."""
    return math.log10(float(trial.values["optimizer.lr"]) / 3e-3) ** 2 + (trial.values["model.d_model"] == 64) * 0.1


def searched(place: Path, definition: Definition, n: int, *, forgets: bool = False) -> list[Trial]:
    """So many trials; `forgets` opens the study anew for each, as if the sweep had been killed before it."""
    place.mkdir()
    study, trials = Study(place, definition, n_jobs=1), []
    for _ in range(n):
        study = Study(place, definition, n_jobs=1) if forgets else study
        trial = study.propose()
        assert trial is not None
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
    assert first == again
    assert first[:3] != other
    assert len({trial.values["optimizer.lr"] for trial in first}) > 10


@pytest.mark.parametrize(("sampler", "most"), [("tpe", 5), ("gp", 3)])  # at random it is 8
def test_a_search_stays_away_from_what_fails(sampler: str, most: int, tmp_path: Path) -> None:
    study = Study(tmp_path, changed(sampler=sampler, space={"optimizer.lr": {"log_uniform": [1e-4, 10.0]}}), n_jobs=1)
    diverged = []
    for _ in range(25):
        trial = study.propose()
        assert trial is not None
        diverged.append(float(trial.values["optimizer.lr"]) > 0.03)  # half of the range
        if diverged[-1]:
            study.record(trial.number, "failed", "diverged")
        else:
            end(study, trial, val_loss=(math.log10(float(trial.values["optimizer.lr"])) + 2) ** 2)
    assert [record.status for record in study.records()] == ["failed" if bad else "finished" for bad in diverged]
    assert {record.reason for record in study.records() if record.status == "failed"} == {"diverged"}
    assert sum(diverged[10:]) <= most


def test_a_trial_that_was_to_be_recorded_as_failed_when_the_sweep_was_killed_may_finish(tmp_path: Path) -> None:
    study = Study(tmp_path, DEFINITION, n_jobs=1)
    trial = study.propose()
    assert trial is not None
    study._storage.set_trial_user_attr(study._trials()[0]._trial_id, FAILURE, "killed")
    end(study, trial, val_loss=1.0)
    assert [(record.status, record.reason, record.metric) for record in study.records()] == [("finished", None, 1.0)]


def test_tpe_comes_near_the_best_of_a_parabola(tmp_path: Path) -> None:
    best = min(searched(tmp_path / "sweep", DEFINITION, 25), key=loss)
    assert 1.5e-3 < float(best.values["optimizer.lr"]) < 6e-3


def test_a_grid_has_an_end_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    tried = []
    for _ in range(7):
        study = Study(tmp_path, GRID, n_jobs=1)
        trial = study.propose()
        if trial is not None:
            end(study, trial, val_loss=1.0)
            tried.append((trial.values["seed"], trial.values["model/attention"]))
    assert tried == [(3, "plain"), (3, "fused"), (1, "plain"), (1, "fused"), (2, "plain"), (2, "fused")]
    assert Study(tmp_path, GRID, n_jobs=1).propose() is None


def test_a_grid_that_was_killed_before_its_next_trial_began_leaves_none_out(tmp_path: Path) -> None:
    study = Study(tmp_path, GRID, n_jobs=1)
    study._study.enqueue_trial({"seed": 3, "model/attention": "plain"})
    assert study.n_trials == 0
    assert study.records() == []
    trials = [study.propose() for _ in range(7)]
    assert [trial.number for trial in trials if trial is not None] == list(range(6))


def test_a_trial_that_was_under_way_goes_on_with_its_number_and_values(tmp_path: Path) -> None:
    study = Study(tmp_path, DEFINITION, n_jobs=2)
    one, other = study.propose(), study.propose()
    assert one is not None
    assert other is not None
    end(study, other, val_loss=1.0)
    end(study, one, status="interrupted", val_loss=None)
    assert [(record.status, record.metric) for record in study.records()] == [("interrupted", None), ("finished", 1.0)]
    assert Study(tmp_path, DEFINITION, n_jobs=2).under_way() == [dataclasses.replace(one, goes_on=True)]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_trial_without_a_number_to_judge_it_by_has_failed(value: float | None, tmp_path: Path) -> None:
    study = Study(tmp_path, DEFINITION, n_jobs=1)
    trial = study.propose()
    assert trial is not None
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
    mend(place)
    study = Study(place, DEFINITION, n_jobs=1)
    finished = sum(record.status == "finished" for record in study.records())
    whole = content[:cut].count(b'"state":1')  # as Optuna writes it of a trial that is complete
    assert finished in (whole, whole - (not content[:cut].endswith(b"\n")))
    trial = study.propose()
    assert trial is not None
    end(study, trial, val_loss=1.0)


def reported(place: Path, definition: Definition, curves: list[Callable[[int], float]]) -> list[int | None]:
    """The steps at which trials with these curves are pruned, one trial after the other; None for those that finish."""
    definition.write(place)
    study, pruned = Study(place, definition, n_jobs=1), []
    for curve in curves:
        trial = study.propose()
        assert trial is not None
        reports = reporter(place, trial.number)
        assert reports is not None
        metric, report = reports
        assert metric == "val_loss"
        steps = range(definition.validate_every, definition.max_steps, definition.validate_every)
        step = next((step for step in steps if report(curve(step), step)), None)
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
    assert [record.status for record in Study(tmp_path, DEFINITION, n_jobs=1).records()] == [
        "finished" if step is None else "pruned" for step in steps
    ]


def test_a_step_that_was_reported_before_an_interruption_may_be_reported_again(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    changed(pruner="median").write(tmp_path)
    study = Study(tmp_path, changed(pruner="median"), n_jobs=1)
    trial = study.propose()
    assert trial is not None
    for _ in range(2):
        reports = reporter(tmp_path, trial.number)
        assert reports is not None
        assert not reports[1](3.0, 10)
    assert not recwarn.list


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_verdict_outlives_the_process_that_asked_for_it(pruner: str, tmp_path: Path) -> None:
    definition = changed(pruner=pruner)
    reported(tmp_path, definition, [lambda step, best=best: best + 1 / step for best in (1.6, 1.5, 1.4, 1.3, 1.2, 1.1)])
    for _ in range(20):  # hyperband leaves some alone
        trial = Study(tmp_path, definition, n_jobs=1).propose()
        assert trial is not None
        reports = reporter(tmp_path, trial.number)
        assert reports is not None
        if any(reports[1](9.0, step) for step in (10, 20, 30)):
            break
    again = reporter(tmp_path, trial.number)
    assert again is not None
    assert again[1](0.1, 40)


def test_without_a_pruner_or_a_study_there_is_nothing_to_report(tmp_path: Path) -> None:
    assert reporter(tmp_path, 0) is None
    DEFINITION.write(tmp_path)
    Study(tmp_path, DEFINITION, n_jobs=1).propose()
    assert reporter(tmp_path, 0) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"space": {**DEFINITION.space, "seed": {"int": [1, 5]}}},
            "the search space of seed was none, and is int [1, 5]",
        ),
        (
            {"space": {"optimizer.lr": {"log_uniform": [1e-5, 1.0]}}},
            "model.d_model was choice [64, 128], and is none now",
        ),
        (
            {"space": {**DEFINITION.space, "optimizer.lr": {"log_uniform": [1e-4, 1.0]}}},
            "log_uniform [1e-05, 1.0], and is",
        ),
        (
            {"space": dict(reversed(DEFINITION.space.items()))},
            "swept in the order optimizer.lr, model.d_model",
        ),
        ({"sampler": "random"}, "sampler was tpe, and is random now"),
        ({"max_steps": 50}, "max_steps was 100, and is 50 now"),
        ({"config": {"optimizer.betas": [0.9, 0.95]}}, "schedule.warmup_steps was 20, and is not there now"),
        ({"config": {**DEFINITION.config, "seed": 1}}, "seed was not there, and is 1 now"),
        ({"words": ["tokenizer=bpe"]}, "its command had tokenizer=char where there is tokenizer=bpe now"),
    ],
)
def test_what_differs_between_two_sweeps_is_named(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    DEFINITION.write(tmp_path)
    assert what in (Definition.read(tmp_path).difference(changed(**change)) or "")


def test_a_sweep_is_no_other_than_the_one_that_was_written_down(tmp_path: Path) -> None:
    DEFINITION.write(tmp_path)
    assert Definition.read(tmp_path) == DEFINITION
    assert DEFINITION.difference(changed(command=["-m", "x"])) is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sampler": "tpee"}, "did you mean tpe?"),
        ({"pruner": "medain"}, "did you mean median?"),
        ({"metric": "val_los"}, "did you mean val_loss?"),
        ({"direction": "minimise"}, "did you mean minimize?"),
        ({"pruner": "median", "metric": "seconds"}, "wants a metric of validations"),
        ({"sampler": "grid"}, "optimizer.lr is a range"),
        ({"space": {"seed": {"grid": [1, 2]}}}, "seed is a grid"),
        ({"space": {}}, "has nothing to search"),
    ],
)
def test_what_cannot_be_a_sweep_is_said_in_one_sentence(change: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=r"\A[^\n]+\Z") as error:
        changed(**change)
    assert what in str(error.value)
