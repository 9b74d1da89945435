"""Sharded runs compute what others do, and go on from their checkpoints as others do from theirs.

Each run is processes of its own. Runs are made once and compared by several tests.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import POEM, ROOT, START, TINY, Result
from gptlab.cli import costs, parts
from gptlab.training import devices
from same_run import read, rows, summary, weights

Run = Callable[..., Path]

STRATEGIES = {
    "one": ("trainer=cpu",),
    "ddp": ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
    "fsdp2": ("trainer=fsdp2", "trainer.accelerator=cpu", "trainer.devices=2"),
}
UNCLIPPED = "grad_clip=null"
"""A norm is summed in another order where weights are sharded, so clipped gradients differ in their last bits."""


def train(place: Path, *words: str) -> None:
    """In a process of its own, which launches the other ranks."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(place / "cache")}
    command = [sys.executable, "-m", "gptlab", "train", *words]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The directory of a run with these words after those of TINY, or resumed with them from a copy of a run."""
    place = tmp_path_factory.mktemp("sharded")
    (place / "poem.txt").write_text(POEM * 40, encoding="utf-8")  # a vocabulary of odd size
    made: dict[tuple, Path] = {}

    def make(*words: str, start: tuple[str, ...] = TINY, resumes: Path | None = None) -> Path:
        key = (resumes, start, *words)
        if key not in made:
            directory = made[key] = place / str(len(made))
            if resumes is not None:
                shutil.copytree(resumes, directory)
            begin = [f"resume={directory}"] if resumes is not None else [*start, f"run_dir={directory}"]
            train(place, *begin, *words)
        return made[key]

    yield make
    shutil.rmtree(place)


def assert_equal(one: Path, other: Path, tolerance: float) -> None:
    """The same weights and optimizer states under the same names and numbers, and the same losses."""
    first, second = (read(directory / "checkpoints" / "last.ckpt") for directory in (one, other))
    assert list(first["state_dict"]) == list(second["state_dict"])
    for name, weight in first["state_dict"].items():
        torch.testing.assert_close(weight, second["state_dict"][name], atol=tolerance, rtol=tolerance, msg=name)
    (first,), (second,) = first["optimizer_states"], second["optimizer_states"]
    assert [group["params"] for group in first["param_groups"]] == [group["params"] for group in second["param_groups"]]
    assert first["state"].keys() == second["state"].keys()
    for number, state in first["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, second["state"][number][name], atol=tolerance, rtol=tolerance)
    for row, expected in zip(rows(one), rows(other), strict=True):
        for name in ("train/loss", "val/loss", "grad_norm"):
            assert (row[name] == "") == (expected[name] == "")
            assert float(row[name] or 0) == pytest.approx(float(expected[name] or 0), rel=max(tolerance, 1e-6))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sharded_run_trains_and_its_checkpoint_is_like_any_other(run: Run, gptlab: Callable[..., Result]) -> None:
    directory = run(*STRATEGIES["fsdp2"])
    assert summary(directory)["status"] == "finished"
    assert len(rows(directory)) == 6
    assert all(type(weight) is torch.Tensor for weight in weights(directory).values())
    generated = gptlab("generate", f"checkpoint={directory}", "prompt=The fog", "max_new_tokens=5")
    assert generated.status == 0, generated.err
    assert generated.out.startswith("The fog")


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        ([UNCLIPPED, "optimizer=muon"], 0),
        ([UNCLIPPED, "activation_checkpointing=true", "model.tie_head=false"], 0),
        ([UNCLIPPED, "trainer.precision=bf16-mixed"], 0),
        ([UNCLIPPED, "micro_batch_size=1"], 1e-5),
        ([], 1e-5),
        (["optimizer=muon", "max_steps=40", "validate_every=20", "save_every=20"], 1e-3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sharded_ranks_compute_what_whole_ones_do(run: Run, words: list[str], tolerance: float) -> None:
    assert_equal(run(*STRATEGIES["fsdp2"], *words), run(*STRATEGIES["ddp"], *words), tolerance)
    if UNCLIPPED not in words:
        assert_equal(run(*STRATEGIES["fsdp2"], *words), run(*STRATEGIES["one"], *words), tolerance)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_four_ranks_compute_what_one_does(run: Run) -> None:
    alone = run(*STRATEGIES["one"], "optimizer=muon")
    for strategy in ("ddp", "fsdp2"):
        four = run(*STRATEGIES[strategy][:2], "trainer.devices=4", "optimizer=muon")
        assert_equal(four, alone, 1e-5)


@pytest.mark.parametrize(("before", "after"), [*permutations(STRATEGIES, 2), ("fsdp2", "fsdp2")])
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_on_under_any_other_strategy(run: Run, before: str, after: str) -> None:
    words = (UNCLIPPED, "schedule.total_steps=12", "optimizer=muon")
    undisturbed = run(*STRATEGIES[after], *words, "max_steps=12")
    resumed = run(*STRATEGIES[after], "max_steps=12", resumes=run(*STRATEGIES[before], *words))
    exact = "one" not in (before, after)
    assert_equal(resumed, undisturbed, 0 if exact else 2e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_adapter_trains_under_every_strategy_and_goes_on_sharded(run: Run) -> None:
    base = run(*STRATEGIES["one"])
    adapted = (f"init_from={base}", "adapter=lora", UNCLIPPED)
    sharded, whole = (run(*adapted, *STRATEGIES[name], start=START) for name in ("fsdp2", "ddp"))
    assert_equal(sharded, whole, 0)
    again = ("max_steps=9", "schedule.total_steps=9")
    assert_equal(run(*again, resumes=sharded), run(*again, *STRATEGIES["ddp"], resumes=sharded), 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sharded_classifier_measures_its_test_split(run: Run) -> None:
    base = run(*STRATEGIES["one"])
    lines = [f"{label}\tthe fog comes {'on ' * number}" for number in range(1, 13) for label in ("ham", "spam")]
    base.with_name("messages.tsv").write_text("\n".join(lines))
    words = ("experiment=classify", f"init_from={base}", f"data.path={base.with_name('messages.tsv')}", "batch_size=4")
    short = ("max_steps=4", "context_length=16", "trainer.precision=32-true", "optimizer=adamw")
    sharded, whole = (run(*short, *STRATEGIES[name], start=words) for name in ("fsdp2", "ddp"))
    assert summary(sharded)["test_texts"] == summary(whole)["test_texts"] > 0
    assert summary(sharded)["test_accuracy"] == summary(whole)["test_accuracy"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sharded_ranks_show_the_attention_that_whole_ones_show(run: Run) -> None:
    pictures = []
    for name in ("fsdp2", "ddp"):
        events = EventAccumulator(
            str(run("callbacks=attention", "callbacks.curves=null", *STRATEGIES[name], UNCLIPPED))
        )
        events.Reload()
        pictures.append([image.encoded_image_string for image in events.Images("attention")])
    assert len(pictures[0]) == 2
    assert pictures[0] == pictures[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks(run: Run) -> None:
    spoilt = ("+callbacks.spoilt={_target_: accidents.InfiniteGradient, step: 2}", "on_nonfinite=skip", UNCLIPPED)
    sharded, whole = (run(*STRATEGIES[name], *spoilt) for name in ("fsdp2", "ddp"))
    assert summary(sharded)["skipped_steps"] == 1
    assert_equal(sharded, whole, 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_rank_keeps_its_share_as_the_plan_says(run: Run) -> None:
    recorder = "+callbacks.memory={_target_: accidents.RankMemory, directory: '${run_dir}'}"
    directory = run(*STRATEGIES["fsdp2"], recorder, "model.d_model=64")
    config = yaml.safe_load((directory / "config.yaml").read_text())
    data = parts.data_module(config)
    planned = costs.Costs(config, data, devices.resolve(config["trainer"])).memory(4)
    for rank in (0, 1):
        kept = json.loads((directory / f"rank{rank}.json").read_text())
        assert kept == {kind: pytest.approx(planned[kind], rel=0.05) for kind in kept}
        assert kept["weights"] < 0.55 * sum(weight.nbytes for weight in weights(directory).values())
