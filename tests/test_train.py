"""`gptlab train`, end to end."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.metadata import (
    parse_session_end_info_plugin_data,
    parse_session_start_info_plugin_data,
)

import gptlab as gptlab_package
from conftest import DRAWN, TINY, Result, train_in
from same_run import rows, summary

Command = Callable[..., Result]

SUMMARY_KEYS = {
    *("run_dir", "status", "failure", "budget", "steps", "tokens", "seconds", "tokens_per_second", "mfu", "flops"),
    *("parameters", "non_embedding_parameters", "trainable_parameters", "train_loss"),
    *("val_loss", "val_perplexity", "val_bits_per_byte", "best_val_loss", "best_step", "best_checkpoint"),
    *("last_checkpoint", "versions", "skipped_steps", "causal", "unit"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that is over and what it printed, for tests that only read it."""
    place = tmp_path_factory.mktemp("finished")
    without_data = [setting for setting in DRAWN if setting != "data=text"]  # data.path= alone means data=text
    out = train_in(place, *without_data, "seed=0", "model.dropout=0.2")
    (run,) = (place / "outputs" / "default").iterdir()
    return run, out


@pytest.fixture
def moved(finished: tuple[Path, str], workplace: Path) -> Path:
    """The same run in another place, for tests that go on with it."""
    return Path(shutil.copytree(finished[0], workplace / "run"))


def config_of(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    return events


def end_of(run: Path) -> int:
    content = events_of(run).summary_metadata["_hparams_/session_end_info"].plugin_data.content
    return parse_session_end_info_plugin_data(content).status


def test_a_run_leaves_everything_in_its_directory(finished: tuple[Path, str]) -> None:
    run, _ = finished
    place = run.parents[2]
    assert "_tokenizer-char_context_length-16" in run.name, "what the command changes"
    names = {path.name.split(".tfevents")[0] for path in run.iterdir()}
    files = {"config.yaml", "events.out", "metrics.csv", "curves.png", "summary.json", "train.log"}
    assert names == {*files, "checkpoints"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt", "best.ckpt"}
    assert {path.name for path in place.iterdir()} == {"outputs", "poem.txt"}
    config = config_of(run)
    assert (config["model"]["context_length"], config["run_dir"]) == (16, str(run)), "plain and resolved"


def test_the_summary_has_every_key_and_agrees_with_the_rows(finished: tuple[Path, str]) -> None:
    run, _ = finished
    content, last = summary(run), rows(run)[-1]
    assert set(content) == SUMMARY_KEYS
    assert content["status"] == "finished"
    assert content["steps"] == 6 == int(last["step"])
    assert content["tokens"] == 6 * 4 * 16 == int(last["tokens"])
    assert content["val_loss"] == pytest.approx(float(last["val/loss"]), rel=1e-4)
    assert content["best_val_loss"] <= content["val_loss"]
    assert all(value is not None for key, value in content.items() if key != "failure")
    assert Path(content["best_checkpoint"]).exists()


def test_what_a_run_prints_ends_with_what_to_do_next_and_is_logged(finished: tuple[Path, str]) -> None:
    run, out = finished
    place = run.relative_to(run.parents[2])
    words = ("parameters", "tokens/s", "val loss", "perplexity", "bits per byte", "sample \u2502")
    commands = (f"generate checkpoint={place}", f"train resume={place} max_steps=12")
    for text in (*words, *(f"gptlab {command}" for command in commands), "tensorboard --logdir outputs"):
        assert text in out
    logged = (run / "train.log").read_text()
    lines = [line for line in out.splitlines() if line.startswith("step ") or "tokens (" in line]
    assert len(lines) > 2
    assert all(logged.count(line) == 1 for line in lines)


def test_tensorboard_has_curves_text_and_hparams_with_a_metric(finished: tuple[Path, str]) -> None:
    events = events_of(finished[0])
    tags = events.Tags()
    expected = {"train/loss", "val/loss", "val/perplexity", "vitals/lr", "vitals/grad_norm", "vitals/tokens_per_second"}
    assert expected <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("val/loss")] == [3, 6]
    first = ["train/loss", "val/best_loss", "val/bits_per_byte", "val/loss", "val/perplexity"]
    assert sorted(tags["scalars"])[:5] == first, "also in the HPARAMS tab"
    best = min(event.value for event in events.Scalars("val/loss"))
    assert [(event.step, event.value) for event in events.Scalars("val/best_loss")] == [(6, best)]
    assert "sample/text_summary" in tags["tensors"]
    hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = parse_session_start_info_plugin_data(hparams).hparams
    assert settings["model.n_layers"].number_value == 1
    assert settings["check_device"].bool_value is True
    assert settings["model/attention"].string_value == "fused"
    assert "_hparams_/experiment" not in events.summary_metadata  # a sweep says what the columns are


def test_checkpoints_hold_nothing_unsafe_and_load(finished: tuple[Path, str]) -> None:
    run, _ = finished
    for path in (run / "checkpoints").iterdir():
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    loaded = gptlab_package.load(run)
    assert loaded.path.name == "best.ckpt"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("little cat feet")) == "little cat feet"
    assert loaded.model(torch.zeros(1, 16, dtype=torch.long)).shape == (1, 16, loaded.tokenizer.vocab_size)
    assert loaded.model.head.weight is loaded.model.trunk.token_embedding.weight


def test_the_same_seed_gives_the_same_run_and_another_another(gptlab: Command, finished: tuple[Path, str]) -> None:
    losses = [[row["train/loss"] for row in rows(finished[0])]]
    for seed in (0, 1):
        gptlab("train", *TINY, f"run_dir={seed}", f"seed={seed}", "model.dropout=0.2", "callbacks.samples=null")
        losses.append([row["train/loss"] for row in rows(Path(str(seed)))])
    assert losses[0] == losses[1] != losses[2]


def test_a_moved_run_resumes_where_it_is_now_with_what_may_change(gptlab: Command, moved: Path) -> None:
    changes = ("save_every=2", "validate_every=20", "callbacks.samples.max_new_tokens=3", "callbacks.curves=null")
    result = gptlab("train", "resume=run", "max_steps=9", *changes, "trainer.detect_anomaly=true")
    assert result.status == 0, result.err
    assert summary(moved)["steps"] == 9
    for name, step in (("last", 9), ("previous", 8)):
        assert torch.load(moved / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"] == step
    config = config_of(moved)
    assert (config["trainer"]["accelerator"], config["trainer"]["detect_anomaly"]) == ("cpu", True)
    samples = config["callbacks"]["samples"]
    assert (samples["temperature"], samples["max_new_tokens"]) == (0.8, 3)
    assert config["callbacks"]["curves"] is None


def test_resume_refuses_what_would_change_the_training(gptlab: Command, moved: Path) -> None:
    (moved.parent / "other.txt").write_text("another poem, another time\n" * 100)
    for changes, sentence in {
        (): "has finished its 6 steps.*max_steps=12",
        ("max_steps=12", "optimizer.lr=1"): "optimizer.lr cannot change in a resumed run",
        ("max_steps=12", "data.path=other.txt"): "the text is not the one that",
    }.items():
        result = gptlab("train", "resume=run", *changes)
        assert result.status == 2
        assert re.search(sentence, result.err)


def test_a_run_that_fails_says_where_and_is_recorded(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such word")

    run = workplace / "run"
    with monkeypatch.context() as patch:
        patch.setattr("gptlab.training.callbacks.samples.continue_texts", fail)
        result = gptlab("train", *TINY, "run_dir=run")
    assert result.status == 1
    assert "failed at step 3: ValueError: no such word (traceback in run/train.log)" in result.err
    assert "Traceback" not in result.out + result.err
    assert "saved up to step 3" in result.out
    assert summary(run)["status"] == "failed"
    assert end_of(run) == STATUS_FAILURE, "as the HPARAMS tab shows it"
    assert "Traceback" in (run / "train.log").read_text()

    assert gptlab("train", "resume=run").status == 0
    assert "no such word" in (run / "train.log").read_text(), "why it failed is still to be read"
    assert end_of(run) == STATUS_SUCCESS
    assert [event.step for event in events_of(run).Scalars("val/best_loss")] == [6]


def test_awkward_paths_mean_themselves_and_a_picture_costs_no_run(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr("gptlab.training.callbacks.curves.draw_curves", fail)
    awkward = "it's, [a] ${strange} = path"
    (workplace / f"{awkward}.txt").write_text("words and words and words again\n" * 60)
    result = gptlab("train", *DRAWN, f"data.path={awkward}.txt", f"run_dir={awkward}")
    assert result.status == 0, result.err
    assert "curves.png could not be drawn (no such colour)" in result.err
    assert summary(workplace / awkward)["status"] == "finished"
    assert config_of(workplace / awkward)["data"]["path"] == str(workplace / f"{awkward}.txt")
    assert gptlab("generate", f"checkpoint={awkward}", "prompt=words", "max_new_tokens=3").status == 0


@pytest.mark.slow
def test_two_cpu_ranks_share_one_run_and_see_one_rank_s_batches(gptlab: Command, workplace: Path) -> None:
    uneven = ("data.val_fraction=0.1034", "micro_batch_size=1")  # 29 validation windows; two micro-batches a rank
    assert gptlab("train", *TINY, *uneven, "run_dir=alone").status == 0
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=both")
    command = [sys.executable, "-m", "gptlab", "train", *TINY, *uneven, *ranks]
    both = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=180, check=False)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("4,400 tokens") == 1, "one log"
    assert len(list((workplace / "both").glob("events.*"))) == 1
    for one, two in zip(rows(workplace / "alone"), rows(workplace / "both"), strict=True):
        assert one["tokens"] == two["tokens"]
        assert float(one["train/loss"]) == pytest.approx(float(two["train/loss"]), rel=1e-4)
        assert float(one["grad_norm"]) == pytest.approx(float(two["grad_norm"]), rel=1e-3)
        if one["val/loss"]:
            assert float(one["val/loss"]) == pytest.approx(float(two["val/loss"]), rel=1e-4)
    assert not (workplace / "outputs").exists()
