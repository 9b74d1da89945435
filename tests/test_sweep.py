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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import CONF, ROOT, TINY, Result, choices
from same_run import summary

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


# -- what is refused before the first trial --------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[str], str]] = {
    "unknown key": (["-m", "optimizer.lrr=1,2"], "did you mean optimizer.lr?"),
    "unknown key in a search": (["sweep=lr_and_width", "optimizer.l=interval(1,2)"], "did you mean optimizer.lr?"),
    "unknown choice": (["-m", "model/attention=plain,fusd"], "did you mean fused?"),
    "bounds reversed": (["sweep=lr_and_width", "optimizer.lr=interval(2,1)"], "the bounds are reversed"),
    "log over zero": (["sweep=lr_and_width", "optimizer.lr=tag(log,interval(0,1))"], "starts above zero"),
    "range in a grid": (["-m", "optimizer.lr=interval(1,2)"], "optimizer.lr is a range"),
    "unknown sampler": (["sweep=lr_and_width", "hydra.sweeper.sampler=tp"], "did you mean tpe?"),
    "unknown pruner": (["sweep=lr_and_width", "hydra.sweeper.pruner=asha"], "median, successive_halving, hyperband"),
    "unknown metric": (["sweep=lr_and_width", "hydra.sweeper.metric=val_los"], "did you mean val_loss?"),
    "unknown setting": (["sweep=lr_and_width", "hydra.sweeper.n_job=2"], "did you mean hydra.sweeper.n_jobs?"),
    "unknown sweep": (["sweep=lr_and_with"], "did you mean lr_and_width?"),
    "no number of trials": (["sweep=lr_and_width", "hydra.sweeper.n_trials=null"], "never ends by itself"),
    "no trials": (["sweep=lr_and_width", "hydra.sweeper.n_trials=0"], "n_trials=0 must be at least 1"),
    "more jobs than devices": (["-m", "seed=1,2", "hydra.sweeper.n_jobs=1000"], "CPU core(s)"),
    "without -m": (["optimizer.lr=1e-3,3e-3"], "optimizer.lr=1e-3,3e-3 has several values: -m tries each of them"),
    "a sweep by its path": (["sweep=conf/sweep/lr_and_width.yaml"], "takes a name, not a path"),
    "an experiment by its path": (["experiment=kept/best.yaml"], "--config-dir=<directory> experiment=best"),
    "a sweep in one run": (["sweep=lr_and_width", "hydra.mode=RUN"], "sweep=lr_and_width starts no sweep"),
    "names for runs": (["-m", "seed=1,2", "hydra.sweep.subdir=${seed}"], "runs are called 0, 1, ..."),
    "more joblib jobs than devices": (
        ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1000"],
        "CPU core(s)",
    ),
    "several nodes": (["-m", "seed=1,2", "trainer=ddp", "trainer.num_nodes=2"], "on this machine only"),
    "nothing is possible": (["-m", "model.n_heads=3,5,7"], "model.d_model=16 is not divisible by n_heads="),
    "of another type": (["-m", "optimizer.lr=a,b"], "must be a number"),
    "no text": (["-m", "seed=1,2", "data.path=nowhere.txt"], "nowhere.txt: no such file"),
    "no sweep to go on with": (["sweep=lr_and_width", "resume_sweep=."], "is no sweep: its sweep.yaml cannot be read"),
    "a run to go on with": (["-m", "seed=1,2", "resume=run"], "a sweep is resumed with resume_sweep="),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_swept_is_refused_before_the_first_trial(
    case: str, gptlab: Callable[..., Result], workplace: Path
) -> None:
    words, what = REFUSED[case]
    before = sorted(workplace.rglob("*"))
    result = gptlab("train", *TINY, *words)
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert what in result.err
    assert sorted(workplace.rglob("*")) == before


@pytest.mark.parametrize("order", [1, -1])
def test_a_space_in_which_some_trials_are_possible_is_not_refused_in_any_order(
    order: int, gptlab: Callable[..., Result], workplace: Path
) -> None:
    keys = ("model.n_heads=3,5,8", "seed=1,2,3", "batch_size=2,4", "grad_clip=1,2", "optimizer.lr=0.1,0.2,0.3")
    result = gptlab("train", *TINY, "-m", *keys[::order], "run_dir=poem.txt")  # the next mistake that it looks for
    assert result.status == 2
    assert "poem.txt cannot be made" in result.err


@pytest.mark.parametrize("left", ["sweep.yaml", "0/config.yaml"])
def test_a_directory_that_holds_runs_is_not_taken(left: str, gptlab: Callable[..., Result], workplace: Path) -> None:
    (workplace / "taken" / left).parent.mkdir(parents=True)
    (workplace / "taken" / left).touch()
    result = gptlab("train", *TINY, "-m", "seed=1,2", "run_dir=taken")
    assert result.status == 2
    assert result.err.startswith("error: taken holds ")


def test_a_sweep_is_not_started_by_each_of_torchrun_s_ranks(
    gptlab: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    result = gptlab("train", *TINY, "-m", "seed=1,2")
    assert result.status == 2
    assert "started once" in result.err


@pytest.mark.parametrize("name", choices("sweep"))
def test_every_sweep_of_conf_says_what_it_searches_and_how_long_it_takes(name: str) -> None:
    lines = (CONF / "sweep" / f"{name}.yaml").read_text().splitlines()
    comment = [line for line in lines[1:] if line.startswith("#")]
    assert lines[0] == "# @package _global_"
    assert any("minute" in line for line in comment)
    assert any(f"python train.py sweep={name}" in line for line in comment)


# -- one trial after the other, and side by side ---------------------------------------------------------------------


def accidents(*kinds: str) -> tuple[str, ...]:
    """A grid over as many seeds, with these accidents before step 4, behind the checkpoint of step 3."""
    places = "seed: '${seed}', directory: '${run_dir}'"
    node = f"{{_target_: accidents.Accident, kinds: [{','.join(kinds)}], step: 4, {places}}}"
    return "-m", f"seed={','.join(map(str, range(len(kinds))))}", f"+callbacks.accident={node}"


@slow
@posix
def test_of_twelve_trials_one_goes_nan_one_raises_one_is_killed_with_the_sweep_and_all_are_recorded(
    workplace: Path,
) -> None:
    kinds = ["none"] * 12
    kinds[3], kinds[5], kinds[8] = "poison", "raise", "kill_sweep"
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
    assert [row["status"] for row in table] == [
        "failed" if kind in ("poison", "raise") else "finished" for kind in kinds
    ]
    assert "nan" in table[3]["reason"]
    assert "this trial was meant to fail" in table[5]["reason"]
    assert [int(row["seed"]) for row in table] == list(range(12))
    for number in range(12):
        run = place / str(number)
        assert Path(table[number]["run_dir"]) == run
        if table[number]["status"] == "finished":
            assert float(table[number]["val_loss"]) == pytest.approx(summary(run)["val_loss"])
            assert float(table[number]["val_perplexity"]) == pytest.approx(summary(run)["val_perplexity"])
            assert int(table[number]["steps"]) == 6
    assert "resuming from step 3 of 6" in (place / "8" / "train.log").read_text()


@slow
@posix
def test_a_killed_sweep_of_a_search_ends_as_one_that_was_never_killed(workplace: Path) -> None:
    search = ("sweep=lr_and_width", "max_steps=6", "validate_every=3", "save_every=3", "schedule.warmup_steps=2")
    words = (*search, "model.d_model=16", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler=random")
    sweep(workplace, *words, "run_dir=whole")
    begun = begin(workplace, *words, "run_dir=killed")
    wait_until(lambda: (workplace / "killed" / "1" / "metrics.csv").exists(), begun)
    begun.kill()
    begun.wait()
    sweep(workplace, *words, "resume_sweep=killed")
    same = ("trial", "status", "optimizer.lr", "val_loss", "steps")
    whole, killed = (
        [[row[name] for name in same] for row in results(workplace / name)] for name in ("whole", "killed")
    )
    assert whole == killed
    assert sweep(workplace, *words, "resume_sweep=killed", "hydra.sweeper.n_trials=5").count("\ntrial ") == 1
    assert len(results(workplace / "killed")) == 5


@slow
@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_trials_save_and_prints_the_command_that_goes_on(number: int, workplace: Path) -> None:
    words = ("-m", "seed=1,2,3", "max_steps=4000", "validate_every=4000", "save_every=4000")
    begun = begin(workplace, *words, "run_dir=my sweep")
    metrics = workplace / "my sweep" / "0" / "metrics.csv"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3, begun)
    begun.send_signal(number)
    out = begun.communicate(timeout=60)[0].decode()
    assert begun.returncode == 128 + number, out
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
def test_the_best_trial_is_repeated_from_anywhere(workplace: Path) -> None:
    search = ("sweep=lr_and_width", "model.d_model=16,32", "model/attention=plain", "hydra.sweeper.n_trials=3")
    sweep(workplace, *search, "experiment=verdict", "callbacks.samples.prompt=fog on", "run_dir=sweep")
    best = min(results(workplace / "sweep"), key=lambda row: float(row["val_loss"]))
    (workplace / "elsewhere").mkdir()
    words = [f"--config-dir={workplace / 'sweep'}", "experiment=best", "run_dir=again"]
    command = [sys.executable, "-m", "gptlab", "train", *words]
    subprocess.run(command, cwd=workplace / "elsewhere", check=True, capture_output=True, timeout=100)
    runs = (workplace / "sweep" / best["trial"], workplace / "elsewhere" / "again")
    first, again = ({**yaml.safe_load((run / "config.yaml").read_text()), "run_dir": None} for run in runs)
    assert first == again
    assert summary(runs[0])["val_loss"] == summary(runs[1])["val_loss"]


def test_a_relative_path_means_the_same_from_another_directory(workplace: Path) -> None:
    (workplace / "conf" / "sweep").mkdir(parents=True)
    (workplace / "conf" / "sweep" / "texts.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    space:\n      data.cache_dir: {grid: [cache]}\n"
    )
    sweep(workplace, "--config-dir=conf", "sweep=texts", "run_dir=sweep")
    assert results(workplace / "sweep")[0]["data.cache_dir"] == str(workplace / "cache")
    sweep(workplace, "-m", "seed=1", "run_dir=fixed")
    assert (
        f"data.path={workplace / 'poem.txt'}"
        in yaml.safe_load((workplace / "fixed" / "sweep.yaml").read_text())["arguments"]
    )


@slow
def test_a_metric_that_a_run_has_not_is_known_before_it_trains(workplace: Path) -> None:
    words = ("-m", "seed=1,2", "tokenizer=words_unk", "hydra.sweeper.metric=val_bits_per_byte", "run_dir=sweep")
    sweep(workplace, *words, status=1)
    assert statuses(workplace / "sweep") == ["failed", "failed"]
    assert "keeps every byte" in results(workplace / "sweep")[0]["reason"]
    assert not (workplace / "sweep" / "0" / "metrics.csv").exists()


@slow
def test_a_hopeless_sweep_ends_early_with_status_1(workplace: Path) -> None:
    out = sweep(workplace, *accidents(*["raise"] * 9), "run_dir=sweep", status=1)
    assert statuses(workplace / "sweep") == ["failed"] * 5
    assert "more than 0.5 of the trials have failed" in out
    assert "hydra.sweeper.max_failed=1 resume_sweep=sweep" in out


@slow
@posix
def test_a_trial_that_is_killed_is_that_trial_s_failure(workplace: Path) -> None:
    sweep(workplace, *accidents("none", "kill", "none"), "run_dir=sweep")
    assert statuses(workplace / "sweep") == ["finished", "failed", "finished"]
    assert "SIGKILL" in results(workplace / "sweep")[1]["reason"]


@slow
def test_a_trial_that_does_badly_is_pruned_and_says_so(workplace: Path) -> None:
    words = ("-m", "optimizer.lr=0.03,0.029,0.028,0.027,0.026,1e-9", "hydra.sweeper.pruner=median", *TWO_RANKS)
    sweep(workplace, *words, "run_dir=sweep")
    assert statuses(workplace / "sweep") == [*["finished"] * 5, "pruned"]
    pruned = summary(workplace / "sweep" / "5")
    assert (pruned["status"], pruned["steps"]) == ("pruned", 3), "on both ranks, or one would wait for the other"
    assert float(results(workplace / "sweep")[5]["val_loss"]) == pytest.approx(pruned["val_loss"])


# -- ranks -----------------------------------------------------------------------------------------------------------


def recorded(run: Path) -> list[dict[str, Any]]:
    """Of each step the settings, and the rows of all ranks together."""
    ranks = [[json.loads(line) for line in path.read_text().splitlines()] for path in sorted(run.glob("rank*.jsonl"))]
    steps = []
    for lines in zip(*ranks, strict=True):
        assert len({json.dumps([line["step"], line["config"]]) for line in lines}) == 1
        steps.append({**lines[0], "ranks": len(lines), "rows": sorted(row for line in lines for row in line["rows"])})
    return steps


@slow
@pytest.mark.parametrize("kind", ["grid", "search"])
def test_each_rank_of_each_trial_has_that_trial_s_values_and_data(kind: str, workplace: Path) -> None:
    if kind == "grid":
        words = ("-m", "optimizer.lr=1e-3,2e-3")
    else:
        words = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=tag(log,interval(1e-4,1e-2))")
    sweep(workplace, *words, *TWO_RANKS, RECORDER, "run_dir=sweep")
    lrs = []
    for row in results(workplace / "sweep"):
        single = workplace / f"single{row['trial']}"
        sweep(workplace, f"optimizer.lr={row['optimizer.lr']}", RECORDER, f"run_dir={single}")
        of_two, of_one = recorded(workplace / "sweep" / row["trial"]), recorded(single)
        assert [step["ranks"] for step in of_two] == [2] * 6
        assert [step["ranks"] for step in of_one] == [1] * 6
        assert [step["lr"] for step in of_two] == [float(row["optimizer.lr"])] * 6
        assert [{**step, "ranks": 0} for step in of_two] == [{**step, "ranks": 0} for step in of_one]
        assert summary(single)["val_loss"] == pytest.approx(float(row["val_loss"]), rel=1e-4)
        lrs.append(of_two[0]["lr"])
    assert len(set(lrs)) == 2


@slow
def test_two_sweeps_at_once_do_not_touch_each_other(workplace: Path) -> None:
    both = [begin(workplace, "-m", f"optimizer.lr={lr},{2 * lr}", RECORDER) for lr in (1e-3, 1e-2)]
    for process in both:
        out = process.communicate(timeout=200)[0].decode()
        assert process.returncode == 0, out
    places = sorted((workplace / "outputs" / "multirun").iterdir())
    tried = {tuple(float(row["optimizer.lr"]) for row in results(place)) for place in places}
    assert tried == {(1e-3, 2e-3), (1e-2, 2e-2)}
    for place in places:
        for row in results(place):
            assert recorded(place / row["trial"])[0]["lr"] == float(row["optimizer.lr"])


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


@slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_hydra_s_own_launchers_run_trials_too(launcher: str, workplace: Path) -> None:
    words = (*accidents("none", "raise", "none"), RECORDER, "hydra.sweeper.n_jobs=2", f"hydra/launcher={launcher}")
    sweep(workplace, *words, "run_dir=sweep")
    assert [len(recorded(workplace / "sweep" / number)) for number in "012"] == [6, 4, 6]
    assert not (workplace / "None").exists()
    assert statuses(workplace / "sweep") == ["finished", "failed", "finished"]
    assert "this trial was meant to fail" in results(workplace / "sweep")[1]["reason"]


@slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_hydra_s_own_launchers_run_trials_of_two_ranks(launcher: str, workplace: Path) -> None:
    words = ("-m", "seed=1,2", RECORDER, *TWO_RANKS, f"hydra/launcher={launcher}")
    sweep(workplace, *words, "run_dir=sweep")
    steps = [recorded(workplace / "sweep" / number) for number in "01"]
    assert [(len(of_one), {step["ranks"] for step in of_one}) for of_one in steps] == [(6, {2}), (6, {2})]
    assert [of_one[0]["config"]["seed"] for of_one in steps] == [1, 2]


@slow
@posix
def test_ctrl_c_under_hydra_s_own_sweeper_saves_and_says_so_by_its_status(workplace: Path) -> None:
    endless = ("-m", "seed=1,2", "max_steps=4000", "validate_every=4000", "save_every=4000")
    begun = begin(workplace, *endless, "hydra/sweeper=basic", "hydra.sweep.dir=sweep")
    metrics = workplace / "sweep" / "0" / "metrics.csv"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3, begun)
    begun.send_signal(signal.SIGINT)
    assert begun.wait(timeout=60) == 130
    assert (workplace / "sweep" / "0" / "checkpoints" / "last.ckpt").exists()


@slow
def test_hydra_s_own_sweeper_runs_its_jobs_as_processes(workplace: Path) -> None:
    words = (*accidents("none", "raise", "none"), "hydra/sweeper=basic", "hydra.sweep.dir=sweep")
    assert "this trial was meant to fail" in sweep(workplace, *words, status=1)
    assert [summary(workplace / "sweep" / str(number))["status"] for number in range(3)] == [
        "finished",
        "failed",
        "finished",
    ]


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_tpe_finds_a_learning_rate_within_a_factor_of_two_of_a_fine_grid_s_best(workplace: Path) -> None:
    task = (
        "model.d_model=32",
        "batch_size=16",
        "schedule=constant",
        "schedule.warmup_steps=5",
        "callbacks.samples=null",
    )
    words = (*task, "max_steps=40", "validate_every=40", "save_every=40", "hydra.sweeper.n_jobs=2")
    fine = [10 ** (-4 + step / 5) for step in range(16)]
    sweep(workplace, "-m", f"optimizer.lr={','.join(map(str, fine))}", *words, "run_dir=grid")
    sweep(
        workplace,
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=25", "optimizer.lr=tag(log,interval(1e-4,1e-1))"),
        *(*words, "run_dir=tpe"),
    )
    best = {
        name: min(results(workplace / name), key=lambda row: float(row["val_loss"] or "inf"))
        for name in ("grid", "tpe")
    }
    assert len(results(workplace / "tpe")) == 25
    assert 0.5 <= float(best["tpe"]["optimizer.lr"]) / float(best["grid"]["optimizer.lr"]) <= 2, best
