"""`gptlab fit`, and a sweep that fits: made-up runs whose losses follow a known law."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT, TINY, Result
from gptlab.cli.compose import compose
from gptlab.cli.fit import fit_runs, train_held_out
from gptlab.comparison.laws import Point
from gptlab.comparison.scaling import loss_at
from gptlab.files import write_json
from gptlab.sweep.definition import Definition
from gptlab.sweep.study import Study
from gptlab.training.run_files import write_config
from some_trials import LR, definition

Command = Callable[..., Result]

KNOWN = np.array([1.1, 35.0, 0.42, 900.0, 0.5])
"""E, A, alpha, B, beta."""
SIZES, BUDGETS = (30_000, 100_000, 300_000, 1_000_000), (1_000_000, 3_000_000, 10_000_000)
LARGER = Point("held_out", 4_000_000, 3_900_000, 40_000_000)
CONFIG: dict[str, Any] = {
    "data": {"_target_": "gptlab.data.text.TextFiles", "path": "/texts/poem.txt"},
    "tokenizer": {"_target_": "gptlab.tokenizer.char.CharTokenizer"},
    "model": {"_target_": "gptlab.model.GPT"},
    "optimizer": {"_target_": "gptlab.training.optimizers.adamw"},
}


def loss(n: float, d: float, *, noise: float = 0.0) -> float:
    return float(loss_at(KNOWN, np.array([[n, d]]))[0] * np.exp(noise))


def write_summary(run_dir: Path, n: int, d: int, **changes: Any) -> None:
    numbers = {"parameters": n, "non_embedding_parameters": n - 2_000, "tokens": d, "flops": 6.3 * n * d}
    summary = {"status": "finished", **numbers, "val_loss": loss(n, d), "entropy_rate": 1.1, **changes}
    write_json(run_dir / "summary.json", summary)


def write_sweep(sweep_dir: Path, sizes: tuple[int, ...] = SIZES, budgets: tuple[int, ...] = BUDGETS) -> None:
    generator = np.random.default_rng(1)
    for number, (n, d) in enumerate(itertools.product(sizes, budgets)):
        run_dir = sweep_dir / str(number)
        run_dir.mkdir(parents=True)
        write_config(run_dir, CONFIG)
        write_summary(run_dir, n, d, val_loss=loss(n, d, noise=0.003 * generator.standard_normal()))


def content(sweep_dir: Path) -> dict[str, Any]:
    return json.loads((sweep_dir / "scaling.json").read_text())


def contains(number: dict[str, Any], value: float) -> bool:
    low, high = number["interval"]
    return low < value < high


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep directory with the prediction of a larger model, and what was said."""
    sweep_dir = tmp_path_factory.mktemp("fitted") / "sweep"
    write_sweep(sweep_dir)
    return sweep_dir, "\n".join(fit_runs(sweep_dir, LARGER))


def test_the_known_law_lies_in_the_intervals_and_the_larger_model_is_predicted(fitted: tuple[Path, str]) -> None:
    sweep_dir, out = fitted
    found = content(sweep_dir)
    law = found["laws"]["L(N, D)"]
    for name, value in zip(("E", "A", "alpha", "B", "beta"), KNOWN, strict=True):
        assert contains(law[name], value), name
    assert contains(law["a"], 0.5 / 0.92)
    assert {"E", "alpha"} < set(found["laws"]["L(N)"])
    assert found["laws"]["L(D)"]["beta"]["value"] == pytest.approx(0.5, abs=0.1)
    assert (found["entropy_rate"], found["entropy_rate_in_interval_of_E"]) == (1.1, True)
    assert contains(found["held_out"]["L(N, D)"], loss(4e6, 4e7))
    assert found["held_out"]["val_loss"] is None
    assert "held out: 4M parameters, 40M tokens: predicted 1." in out
    assert (sweep_dir / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_the_flops_of_each_run_are_stated_in_three_ways(fitted: tuple[Path, str]) -> None:
    points = content(fitted[0])["points"]
    assert len(points) == 12
    for point in points:
        n, d = point["parameters"], point["tokens"]
        assert point["6_N_D"] == 6 * n * d
        assert point["6_N_D_without_embeddings"] == 6 * (n - 2_000) * d
        assert point["flops"] == 6.3 * n * d


def test_the_command_fits_again_with_the_held_out_run_compared_and_never_fitted(
    gptlab: Command, workplace: Path, fitted: tuple[Path, str]
) -> None:
    shutil.copytree(fitted[0], workplace / "sweep")
    before = content(workplace / "sweep")
    (workplace / "sweep" / "held_out").mkdir()
    write_config(workplace / "sweep" / "held_out", CONFIG)
    write_summary(
        workplace / "sweep" / "held_out", 4_000_000, 40_000_000, non_embedding_parameters=3_900_000, val_loss=1.4
    )
    result = gptlab("fit", "sweep")
    assert result.status == 0, result.err
    after = content(workplace / "sweep")
    assert after["laws"] == before["laws"]
    predicted = before["held_out"]["L(N, D)"]["value"]
    assert after["held_out"]["L(N, D)"]["value"] == predicted
    assert after["held_out"]["relative_error"] == pytest.approx(1.4 / predicted - 1)
    assert f"measured 1.4000 ({1.4 / predicted - 1:+.2%})" in result.out
    assert "sweep/scaling.png" in result.out


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (lambda sweep: shutil.rmtree(sweep), "sweep does not exist"),
    "no run": (
        lambda sweep: [shutil.rmtree(run) for run in sweep.iterdir()],
        "sweep neither is a run directory nor holds any",
    ),
    "nothing finished": (
        lambda sweep: [write_summary(run, 1, 1, status="interrupted") for run in sweep.iterdir()],
        "no run in it has finished",
    ),
    "too few": (
        lambda sweep: [shutil.rmtree(sweep / str(number)) for number in range(4, 12)],
        "L(N, D) has 5 parameters and needs at least as many runs, of 3 model sizes and 3 token budgets: "
        "4 have finished, of 2 and 3",
    ),
    "another text": (
        lambda sweep: write_config(sweep / "5", {**CONFIG, "data": {**CONFIG["data"], "path": "/texts/tale.txt"}}),
        "runs that differ in data.path (/texts/poem.txt and /texts/tale.txt) cannot be fitted together",
    ),
    "another tokenizer": (
        lambda sweep: write_config(sweep / "5", {**CONFIG, "tokenizer": {"_target_": "mine.Tokenizer"}}),
        "runs that differ in tokenizer._target_ (gptlab.tokenizer.char.CharTokenizer and mine.Tokenizer)",
    ),
    "a number is missing": (
        lambda sweep: write_summary(sweep / "7", 1, 1, val_loss=None),
        "sweep/7 has no val_loss in its summary.json",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_fitted_is_one_sentence(gptlab: Command, workplace: Path, case: str) -> None:
    change, sentence = BAD[case]
    write_sweep(workplace / "sweep")
    change(workplace / "sweep")
    result = gptlab("fit", "sweep")
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert sentence in result.err
    assert not (workplace / "sweep" / "scaling.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"), [([], "runs= is empty: name the directory of a sweep"), (["a", "b"], "runs=['a', 'b'] must")]
)
def test_one_directory_is_fitted(gptlab: Command, words: list[str], sentence: str) -> None:
    result = gptlab("fit", *words)
    assert result.status == 2
    assert sentence in result.err


HELD_OUT = "hydra.sweeper.held_out=['model.d_model=32','max_steps=8','seed=1']"


def test_a_held_out_run_is_planned_and_one_that_has_finished_is_not_trained_again(
    workplace: Path, tiny_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = workplace / "sweep"
    write_sweep(place, SIZES[:3])
    shutil.copytree(tiny_run / "checkpoints", place / "0" / "checkpoints")
    config = compose([*TINY, "context_length=64", "max_steps=8"])
    fails = definition([LR], arguments=["nonsense=1"], held_out=["max_steps=8"])
    with caplog.at_level("INFO", logger="gptlab"):
        assert train_held_out(place, fails, config) is None
    assert "failed: the held-out model: nonsense is not a setting" in caplog.text
    planned = content(place)["held_out"]
    tiny = json.loads((tiny_run / "summary.json").read_text())
    assert (planned["parameters"], planned["tokens"]) == (tiny["parameters"], 8 * 4 * 64)
    assert planned["non_embedding_parameters"] < planned["parameters"] - 64 * 16, "positions are an embedding too"
    assert planned["val_loss"] is None

    write_summary(place / "held_out", 1_000_000, 30_000_000, val_loss=1.5)
    with caplog.at_level("INFO", logger="gptlab"):
        assert train_held_out(place, fails, config) is None
    assert content(place)["held_out"]["val_loss"] == 1.5
    assert "measured 1.5000" in caplog.text
    assert caplog.text.count("failed") == 1


REFUSED = {
    "hydra.sweeper.held_out=['model.d_modl=32']": "did you mean model.d_model?",
    "hydra.sweeper.held_out=['model.d_model=33']": "d_model=33 is not divisible by n_heads=2",
    "hydra.sweeper.held_out=32": "held_out=32 must be a list of text or null",
    f"{HELD_OUT} hydra/sweeper=optuna hydra.sweeper.pruner=median": "set pruner=null",
    f"{HELD_OUT} hydra/launcher=joblib": "trains on this machine",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_held_out_model_is_checked_before_the_first_trial(gptlab: Command, workplace: Path, words: str) -> None:
    before = sorted(workplace.rglob("*"))
    result = gptlab("train", *TINY, "-m", "seed=1,2", *words.split())
    assert result.status == 2, result
    assert result.err.count("\n") == 1
    assert REFUSED[words] in result.err
    assert sorted(workplace.rglob("*")) == before


def begin(workplace: Path, *words: str) -> subprocess.Popen:
    """A sweep as a process. The held-out run, of seed 1, is killed once with its sweep, behind the save of step 3."""
    places = "seed: '${seed}', directory: '${run_dir}'"
    node = f"{{_target_: accidents.Accident, kinds: [none, kill_sweep], step: 4, {places}}}"
    space = ("model.d_model=8,16,24", "max_steps=2,4,6", "seed=0", HELD_OUT, f"+callbacks.accident={node}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "src")])}
    command = [sys.executable, "-m", "gptlab", "train", *TINY, "-m", *space, "schedule.warmup_steps=0", *words]
    return subprocess.Popen(command, cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end_all_trials(sweep_dir: Path, tiny_run: Path) -> None:
    """Write the results that the trials might have had."""
    study = Study(sweep_dir, Definition.read(sweep_dir))
    while study.n_started < study.definition.n_planned:
        study.propose()
    for number, (n, d) in enumerate(itertools.product(SIZES[:3], BUDGETS)):
        (sweep_dir / str(number)).mkdir(exist_ok=True)
        write_config(sweep_dir / str(number), CONFIG)
        write_summary(sweep_dir / str(number), n, d)
    shutil.copytree(tiny_run / "checkpoints", sweep_dir / "0" / "checkpoints", dirs_exist_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX's")
def test_a_larger_model_is_predicted_then_trained_once_however_often_the_sweep_is_killed(
    workplace: Path, tiny_run: Path
) -> None:
    place = workplace / "sweep"
    started = begin(workplace, "run_dir=sweep")
    while not (place / "study.journal").exists() and started.poll() is None:
        time.sleep(0.05)
    started.terminate()
    started.communicate(timeout=600)
    end_all_trials(place, tiny_run)

    killed = begin(workplace, "resume_sweep=sweep")
    out = killed.communicate(timeout=600)[0].decode()
    assert killed.returncode == -signal.SIGKILL, out
    predicted = content(place)["held_out"]
    assert predicted["val_loss"] is None
    assert predicted["tokens"] == 8 * 4 * 16
    assert f"predicted {predicted['L(N, D)']['value']:.4f}" in out

    resumed = begin(workplace, "resume_sweep=sweep")
    out = resumed.communicate(timeout=600)[0].decode()
    assert resumed.returncode == 0, out
    summary = json.loads((place / "held_out" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", 8)
    assert summary["parameters"] == predicted["parameters"], "as it was planned"
    assert "resum" in (place / "held_out" / "train.log").read_text()
    measured = content(place)["held_out"]
    assert measured["val_loss"] == summary["val_loss"]
    assert measured["L(N, D)"]["value"] == predicted["L(N, D)"]["value"]
    assert f"measured {summary['val_loss']:.4f}" in out
    assert "gptlab fit sweep" in out
