"""Sweeps from end to end: real trials, each a process of its own."""

import csv
import html
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, TINY, Result
from gptlab.cli.trials import pruning_callbacks
from gptlab.errors import UserError
from gptlab.sweep.trial import TRIAL, Trial, TrialResult
from same_run import rows, summary
from some_trials import LR, definition

slow = pytest.mark.slow
posix = pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX's")

RECORDER = "+callbacks.recorder={_target_: accidents.Recorder, directory: '${run_dir}'}"
TWO_RANKS = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def begin(workplace: Path, *words: str) -> subprocess.Popen:
    """A sweep as a process, standing in `workplace`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])}
    command = [sys.executable, "-m", "gptlab", "train", *TINY, *words]
    return subprocess.Popen(command, cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def sweep(workplace: Path, *words: str, status: int = 0) -> str:
    """What it said; it must end with this status."""
    process = begin(workplace, *words)
    out = process.communicate(timeout=220)[0].decode()
    assert process.returncode == status, out
    return out


def results(directory: Path) -> list[dict[str, str]]:
    with (directory / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def statuses(directory: Path) -> list[str]:
    return [row["status"] for row in results(directory)]


REFUSED: dict[str, tuple[list[str], str]] = {
    "unknown key": (["sweep=lr_and_width", "optimizer.l=interval(1,2)"], "did you mean optimizer.lr?"),
    "unknown choice": (["-m", "model/attention=plain,fusd"], "did you mean fused?"),
    "unknown metric": (["sweep=lr_and_width", "hydra.sweeper.metric=val_los"], "did you mean val_loss?"),
    "unknown setting": (["sweep=lr_and_width", "hydra.sweeper.n_job=2"], "did you mean hydra.sweeper.n_jobs?"),
    "unknown sweep": (["sweep=lr_and_with"], "did you mean lr_and_width?"),
    "without -m": (["optimizer.lr=1e-3,3e-3"], "optimizer.lr=1e-3,3e-3 has several values: -m tries each of them"),
    "a sweep by its path": (["sweep=conf/sweep/lr_and_width.yaml"], "takes a name, not a path"),
    "an experiment by its path": (["experiment=kept/best.yaml"], "--config-dir=<directory> experiment=best"),
    "a sweep in one run": (["sweep=lr_and_width", "hydra.mode=RUN"], "sweep=lr_and_width starts no sweep"),
    "names for runs": (["-m", "seed=1,2", "hydra.sweep.subdir=${seed}"], "runs are called 0, 1, ..."),
    "more jobs than devices": (
        ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1000"],
        "CPU core(s)",
    ),
    "several nodes": (["-m", "seed=1,2", "trainer=ddp", "trainer.num_nodes=2"], "on this machine only"),
    "no order of n-grams": (["-m", "seed=1,2", "hydra.sweeper.ngram=zero"], "ngram=zero must be whole numbers from 1"),
    "no case": (["sweep=five_models", "case=stage7"], "case=stage7 is not one of stage1, stage2"),
    "no possible trial": (["-m", "model.n_heads=3,5"], "model.d_model=16 is not divisible by n_heads="),
    "no text": (["-m", "seed=1", "data.path=nowhere.txt"], "nowhere.txt: no such file"),
    "no sweep to resume": (["sweep=lr_and_width", "resume_sweep=."], "is no sweep: its sweep.yaml cannot be read"),
    "a run to resume": (["-m", "seed=1,2", "resume=run"], "a sweep is resumed with resume_sweep="),
    "a directory that holds a sweep": (["-m", "seed=1,2", "run_dir=taken"], "taken holds runs already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_swept_is_refused_before_the_first_trial(
    case: str, gptlab: Callable[..., Result], workplace: Path
) -> None:
    words, what = REFUSED[case]
    (workplace / "taken").mkdir()
    (workplace / "taken" / "sweep.yaml").touch()
    before = sorted(workplace.rglob("*"))
    result = gptlab("train", *TINY, *words)
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert what in result.err
    assert sorted(workplace.rglob("*")) == before


def test_a_space_in_which_some_trials_are_possible_is_not_refused(
    gptlab: Callable[..., Result], workplace: Path
) -> None:
    keys = ("model.n_heads=3,5,8", "seed=1,2,3")
    result = gptlab("train", *TINY, "-m", *keys, "run_dir=poem.txt")  # the next mistake that it looks for
    assert result.status == 2
    assert "poem.txt cannot be made" in result.err


def test_a_sweep_is_not_started_by_each_of_torchrun_s_ranks(
    gptlab: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    result = gptlab("train", *TINY, "-m", "seed=1,2")
    assert result.status == 2
    assert "started once" in result.err


def accidents(*kinds: str) -> tuple[str, ...]:
    """A grid over as many seeds, with these accidents before step 4, behind the checkpoint of step 3."""
    places = "seed: '${seed}', directory: '${run_dir}'"
    node = f"{{_target_: accidents.Accident, kinds: [{','.join(kinds)}], step: 4, {places}}}"
    return "-m", f"seed={','.join(map(str, range(len(kinds))))}", f"+callbacks.accident={node}"


@slow
@posix
def test_of_twelve_trials_some_go_nan_raise_or_are_killed_once_with_the_sweep_and_all_are_recorded(
    workplace: Path,
) -> None:
    kinds = ["none"] * 12
    kinds[3], kinds[5], kinds[8], kinds[11] = "poison", "raise", "kill_sweep", "kill"
    words = (*accidents(*kinds), "hydra.sweeper.n_jobs=2")
    place = workplace / "sweep"
    killed = begin(workplace, *words, "run_dir=sweep")
    assert killed.wait(timeout=200) == -signal.SIGKILL
    assert statuses(place)[:6] == ["finished", "finished", "finished", "failed", "finished", "failed"]
    assert (place / "8" / "killed").exists()
    assert not (place / "10").exists()
    sweep(workplace, *words, "resume_sweep=sweep")
    table = results(place)
    assert [int(row["trial"]) for row in table] == list(range(12))
    expected = ["failed" if kind in ("poison", "raise", "kill") else "finished" for kind in kinds]
    assert [row["status"] for row in table] == expected, [row["reason"] for row in table]
    assert "nan" in table[3]["reason"]
    assert "this trial was meant to fail" in table[5]["reason"]
    assert "SIGKILL" in table[11]["reason"]
    assert [int(row["seed"]) for row in table] == list(range(12))
    for number in range(12):
        run = place / str(number)
        assert Path(table[number]["run_dir"]) == run
        if table[number]["status"] == "finished":
            assert float(table[number]["val_loss"]) == pytest.approx(summary(run)["val_loss"])
    assert "resuming from step 3 of 6" in (place / "8" / "train.log").read_text()


@slow
@posix
def test_ctrl_c_lets_trials_save_and_prints_the_command_that_resumes(workplace: Path) -> None:
    words = ("-m", "seed=1,2,3", "max_steps=4000", "validate_every=4000", "save_every=4000")
    begun = begin(workplace, *words, "run_dir=my sweep")
    metrics = workplace / "my sweep" / "0" / "metrics.csv"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3, begun)
    begun.send_signal(signal.SIGINT)
    out = begun.communicate(timeout=60)[0].decode()
    assert begun.returncode == 130, out
    assert statuses(workplace / "my sweep") == ["interrupted"]
    assert (workplace / "my sweep" / "0" / "checkpoints" / "last.ckpt").exists()
    assert "'resume_sweep=my sweep'" in out
    assert "gptlab train -m " in sweep(workplace, "resume_sweep=my sweep", status=2)


@slow
def test_a_user_s_own_configurations_go_with_a_sweep_and_its_best_trial(workplace: Path) -> None:
    mine = workplace / "my conf" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\noptimizer:\n  weight_decay: 0.25\n")
    words = ("-m", "--config-dir=my conf", "experiment=mine", "seed=1,2")
    out = sweep(workplace, *words, "run_dir=sweep")
    (command,) = {line.strip() for line in out.splitlines() if line.endswith("experiment=best")}
    assert command in html.unescape((workplace / "sweep" / "report.html").read_text())
    best = min(results(workplace / "sweep"), key=lambda row: float(row["val_loss"]))
    again = [sys.executable, "-m", "gptlab", *shlex.split(command)[1:], "run_dir=again"]
    subprocess.run(again, cwd=workplace, check=True, capture_output=True, timeout=100)
    assert summary(workplace / "again")["val_loss"] == summary(workplace / "sweep" / best["trial"])["val_loss"]
    config = yaml.safe_load((workplace / "again" / "config.yaml").read_text())
    assert (config["optimizer"]["weight_decay"], config["seed"]) == (0.25, int(best["seed"]))
    assert f"gptlab train '--config-dir={workplace}/my conf' -m" in sweep(workplace, "resume_sweep=sweep", status=2)


@slow
def test_a_trial_that_does_badly_is_pruned_on_all_ranks(workplace: Path) -> None:
    words = ("-m", "optimizer.lr=0.03,1e-9", "hydra.sweeper.pruner=successive_halving", *TWO_RANKS)
    sweep(workplace, *words, "run_dir=sweep")
    assert statuses(workplace / "sweep") == ["finished", "pruned"]
    pruned = summary(workplace / "sweep" / "1")
    assert (pruned["status"], pruned["steps"]) == ("pruned", 3), "on both ranks, or one would wait for the other"
    assert float(results(workplace / "sweep")[1]["val_loss"]) == pytest.approx(pruned["val_loss"])


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes trials end with these losses without running them; those of which there is none fail."""

    def with_losses(*losses: float) -> None:
        def run_trials(trials: Iterator[Trial], environments: object) -> Iterator[tuple[int, TrialResult]]:
            for trial in trials:
                trial.run_dir.mkdir()
                if trial.number >= len(losses):
                    yield trial.number, TrialResult("failed", "it was meant to")
                    continue
                content = {"status": "finished", "val_loss": losses[trial.number]}
                (trial.run_dir / "summary.json").write_text(json.dumps(content))
                yield trial.number, TrialResult("finished")

        monkeypatch.setattr("gptlab.cli.trials.run_trials", run_trials)

    return with_losses


def test_a_sweep_leaves_results_a_report_and_its_best_trial_as_an_experiment(
    gptlab: Callable[..., Result], workplace: Path, pretend: Callable[..., None]
) -> None:
    pretend(2.5, 2.25)
    space = ("sweep=lr_and_width", "hydra.sweeper.n_trials=2", "model.d_model=16,32", "data.cache_dir=cache")
    fixed = ("experiment=verdict", "model/attention=plain", "callbacks.samples.prompt=fog on")
    result = gptlab("train", *TINY, *space, *fixed, "run_dir=sweep")
    assert result.status == 0, result
    assert [float(row["val_loss"]) for row in results(workplace / "sweep")] == [2.5, 2.25]
    page = (workplace / "sweep" / "report.html").read_text()
    again = "gptlab train --config-dir=sweep experiment=best"
    for command in ("gptlab compare sweep", "tensorboard --logdir sweep", again):
        assert f"<pre>{command}</pre>" in page
        assert command in result.out
    assert "<pre>gptlab generate checkpoint=sweep/1</pre>" in page
    assert str(workplace) not in page, "paths are relative"

    arguments = yaml.safe_load((workplace / "sweep" / "sweep.yaml").read_text())["arguments"]
    assert {f"data.path={workplace / 'poem.txt'}", f"data.cache_dir={workplace / 'cache'}"} <= set(arguments)
    best = results(workplace / "sweep")[1]
    values = [f"{key}={best[key]}" for key in ("optimizer.lr", "model.d_model")]
    trial = gptlab("train", *arguments, *values, "hydra.mode=RUN", "--cfg", "job")
    assert gptlab("train", "--config-dir=sweep", "experiment=best", "--cfg", "job").out == trial.out != ""


@slow
def test_cases_crossed_with_seeds_end_with_tables_and_a_picture_with_floors(
    gptlab: Callable[..., Result], workplace: Path
) -> None:
    named = ("{name: lookup, overrides: ['model=stage1']}", "{name: a mean, overrides: ['model/attention=linear']}")
    cases = f"hydra.sweeper.cases=[{','.join(named)}]"
    words = (
        "tokenizer=char",
        "max_steps=3",
        "context_length=8",
        "batch_size=2",
        "validate_every=3",
        "data.path=poem.txt",
    )
    floors = ("hydra.sweeper.ngram=1,2", "hydra.sweeper.n_jobs=2", "callbacks.samples=null")
    result = gptlab("train", *words, *floors, cases, "-m", "seed=1,2", "run_dir=five")
    assert result.status == 0, result
    assert [row["case"] for row in results(workplace / "five")] == ["lookup"] * 2 + ["a mean"] * 2
    assert "not causal" in (workplace / "five" / "cases.md").read_text()
    assert "best: trial 0" in result.out or "best: trial 1" in result.out
    assert (workplace / "five" / "compare.png").stat().st_size > 10_000
    compared = gptlab("compare", "five", "ngram=1")
    assert "lookup " in compared.out
    assert "a mean (not causal)" in compared.out


def test_a_larger_number_of_trials_extends_a_sweep_and_another_setting_is_refused(
    gptlab: Callable[..., Result], workplace: Path, pretend: Callable[..., None]
) -> None:
    pretend(2.5, 2.25, 2.0)
    search = ("sweep=lr_and_width", "hydra.sweeper.sampler=random", "model.d_model=16")
    assert gptlab("train", *TINY, *search, "hydra.sweeper.n_trials=2", "run_dir=sweep").status == 0
    assert gptlab("train", *TINY, *search, "hydra.sweeper.n_trials=3", "resume_sweep=sweep").status == 0
    assert [float(row["val_loss"]) for row in results(workplace / "sweep")] == [2.5, 2.25, 2.0]
    other = gptlab("train", *TINY, *search, "max_steps=5", "resume_sweep=sweep")
    assert other.status == 2
    assert "is another sweep: max_steps was 6, and is 5 now" in other.err


def test_a_hopeless_sweep_ends_early_with_status_1(
    gptlab: Callable[..., Result], workplace: Path, pretend: Callable[..., None]
) -> None:
    pretend()
    result = gptlab("train", *TINY, "-m", "seed=range(9)", "run_dir=sweep")
    assert result.status == 1
    assert statuses(workplace / "sweep") == ["failed"] * 5
    assert "more than 0.5 of the trials have failed" in result.out + result.err
    assert "hydra.sweeper.max_failed=1 resume_sweep=sweep" in result.out


def test_a_metric_that_a_trial_has_not_is_known_before_it_trains(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition([LR], metric="val_bits_per_byte").write(workplace)
    monkeypatch.setenv(TRIAL, f"0:{workplace}")
    with pytest.raises(UserError, match="needs a tokenizer that keeps every byte"):
        pruning_callbacks([])


def recorded(run: Path) -> list[dict[str, Any]]:
    """Of each step the settings, and the rows of all ranks together."""
    ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(run.glob("rank*.jsonl"))]
    steps = []
    for lines in zip(*ranks, strict=True):
        assert len({json.dumps([line["step"], line["config"]]) for line in lines}) == 1
        steps.append({**lines[0], "ranks": len(lines), "rows": sorted(row for line in lines for row in line["rows"])})
    return steps


@slow
def test_each_rank_of_each_trial_has_that_trial_s_values_and_data(workplace: Path) -> None:
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=tag(log,interval(1e-4,1e-2))")
    sweep(workplace, "-m", *search, *TWO_RANKS, RECORDER, "run_dir=sweep")
    lrs = []
    for row in results(workplace / "sweep"):
        single = workplace / f"single{row['trial']}"
        sweep(workplace, f"optimizer.lr={row['optimizer.lr']}", RECORDER, f"run_dir={single}")
        of_two, of_one = recorded(workplace / "sweep" / row["trial"]), recorded(single)
        assert [step["ranks"] for step in of_two] == [2] * 6
        assert [step["lr"] for step in of_two] == [float(row["optimizer.lr"])] * 6
        assert [{**step, "ranks": 1} for step in of_two] == of_one
        assert summary(single)["val_loss"] == pytest.approx(float(row["val_loss"]), rel=1e-4)
        lrs.append(of_two[0]["lr"])
    assert len(set(lrs)) == 2


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


@slow
@pytest.mark.parametrize(
    ("launcher", "ranks"), [("joblib", ()), ("submitit_local", ()), ("submitit_local", TWO_RANKS)], ids=str
)
def test_hydra_s_own_launchers_run_trials_too(launcher: str, ranks: tuple[str, ...], workplace: Path) -> None:
    words = (*accidents("none", "raise", "none"), RECORDER, *ranks, f"hydra/launcher={launcher}")
    sweep(workplace, *words, "hydra.sweeper.n_jobs=2", "run_dir=sweep")
    steps = [recorded(workplace / "sweep" / number) for number in "012"]
    assert [len(of_one) for of_one in steps] == [6, 4, 6]
    assert {step["ranks"] for of_one in steps for step in of_one} == {2 if ranks else 1}
    assert [of_one[0]["config"]["seed"] for of_one in steps] == [0, 1, 2]
    assert statuses(workplace / "sweep") == ["finished", "failed", "finished"]
    assert "this trial was meant to fail" in results(workplace / "sweep")[1]["reason"]


@slow
def test_hydra_s_own_sweeper_runs_its_jobs_as_processes(workplace: Path) -> None:
    words = (*accidents("none", "raise", "none"), "hydra/sweeper=basic", "hydra.sweep.dir=sweep")
    assert "this trial was meant to fail" in sweep(workplace, *words, status=1)
    assert [summary(workplace / "sweep" / str(number))["status"] for number in range(3)] == [
        "finished",
        "failed",
        "finished",
    ]


@slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the job's process in /proc")
def test_a_job_of_submitit_that_is_preempted_resumes_with_resume_auto(workplace: Path) -> None:
    changes = ("max_steps=600", "validate_every=300", "save_every=1000", "resume=auto", "hydra/launcher=submitit_local")
    begun = begin(workplace, "-m", *changes, "hydra.sweep.dir=sweep")
    metrics = workplace / "sweep" / "0" / "metrics.csv"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 5, begun)
    (controller,) = (path.name for path in (workplace / "sweep" / ".submitit").iterdir() if path.name.isdigit())
    (job,) = map(int, Path(f"/proc/{controller}/task/{controller}/children").read_text().split())
    os.kill(job, signal.SIGUSR2)
    assert begun.wait(timeout=120) == 0
    assert summary(metrics.parent)["status"] == "finished"
    assert [int(row["step"]) for row in rows(metrics.parent)] == list(range(1, 601))
    assert "resuming from step" in (metrics.parent / "train.log").read_text()
