"""`gptlab train`, end to end."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
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
from conftest import ROOT, TINY, Result

Command = Callable[..., Result]

SUMMARY_KEYS = {
    *(
        "run_dir",
        "status",
        "failure",
        "steps",
        "tokens",
        "seconds",
        "tokens_per_second",
        "parameters",
        "train_loss",
        "val_loss",
    ),
    *(
        "val_perplexity",
        "val_bits_per_byte",
        "best_val_loss",
        "best_step",
        "best_checkpoint",
        "last_checkpoint",
    ),
    "versions",
    "skipped_steps",
}


def the_run(workplace: Path) -> Path:
    (run,) = (workplace / "outputs" / "default").iterdir()
    return run


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_in_its_directory(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *TINY)
    assert result.status == 0, result.err
    run = the_run(workplace)
    assert "_tokenizer-char_context_length-16" in run.name, "what the command changes"
    names = {path.name.split(".tfevents")[0] for path in run.iterdir()}
    assert names == {
        *(
            "config.yaml",
            "checkpoints",
            "events.out",
            "metrics.csv",
            "curves.png",
            "summary.json",
            "train.log",
        )
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        "last.ckpt",
        "previous.ckpt",
        "best.ckpt",
    }
    assert {path.name for path in workplace.iterdir()} == {"outputs", "poem.txt"}


def test_the_summary_has_every_key_and_agrees_with_the_rows(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY)
    content, last = summary(the_run(workplace)), rows(the_run(workplace))[-1]
    assert set(content) == SUMMARY_KEYS
    assert content["status"] == "finished"
    assert content["steps"] == 6 == int(last["step"])
    assert content["tokens"] == 6 * 4 * 16 == int(last["tokens"])
    assert content["val_loss"] == pytest.approx(float(last["val/loss"]), rel=1e-4)
    assert content["best_val_loss"] <= content["val_loss"]
    assert all(value is not None for key, value in content.items() if key != "failure")
    assert Path(content["best_checkpoint"]).exists()


def test_the_end_of_a_run_says_what_to_do_next(gptlab: Command, workplace: Path) -> None:
    out = gptlab("train", *TINY).out
    place = the_run(workplace).relative_to(workplace)
    for words in (
        "parameters",
        "tokens/s",
        "val loss",
        "perplexity",
        "bits per byte",
        "sample \u2502",
        str(place),
    ):
        assert words in out
    assert f"gptlab generate checkpoint={place}" in out
    assert "tensorboard --logdir outputs" in out
    assert f"gptlab train resume={place} max_steps=12" in out


def test_train_log_has_the_lines_of_the_terminal_once(gptlab: Command, workplace: Path) -> None:
    out = gptlab("train", *TINY).out
    logged = (the_run(workplace) / "train.log").read_text()
    for line in out.splitlines():
        if line.startswith("step ") or "tokens (" in line:
            assert logged.count(line) == 1


def test_tensorboard_has_curves_text_and_hparams_with_a_metric(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY)
    run = the_run(workplace)
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()
    expected = {"train/loss", "val/loss", "val/perplexity", "vitals/lr", "vitals/grad_norm", "vitals/tokens_per_second"}
    assert expected <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("val/loss")] == [3, 6]
    assert sorted(tags["scalars"])[:5] == [
        *("train/loss", "val/best_loss", "val/bits_per_byte", "val/loss", "val/perplexity")
    ], "first, also in the HPARAMS tab"
    best = min(event.value for event in events.Scalars("val/loss"))
    assert [(event.step, event.value) for event in events.Scalars("val/best_loss")] == [(6, best)]
    assert "sample/text_summary" in tags["tensors"]
    assert "_hparams_/session_start_info" in events.summary_metadata
    hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = parse_session_start_info_plugin_data(hparams).hparams
    assert settings["model.n_layers"].number_value == 1
    assert settings["check_device"].bool_value is True
    assert settings["model/attention"].string_value == "fused"
    assert end_of(run) == STATUS_SUCCESS
    assert "_hparams_/experiment" not in events.summary_metadata  # a sweep says what the columns are


def test_the_hparams_tab_knows_how_a_run_ended(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "run_dir=run", "optimizer.lr=1e30", "grad_clip=null").status == 1
    assert end_of(workplace / "run") == STATUS_FAILURE
    gptlab("train", *TINY, "run_dir=halves", "max_steps=4")
    assert gptlab("train", "resume=halves", "max_steps=6").status == 0
    assert end_of(workplace / "halves") == STATUS_SUCCESS
    events = EventAccumulator(str(workplace / "halves"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/best_loss")] == [6]


def end_of(run: Path) -> int:
    events = EventAccumulator(str(run))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_end_info"].plugin_data.content
    return parse_session_end_info_plugin_data(content).status


def test_the_config_of_a_run_is_plain_and_resolved(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY, "seed=0")
    config = yaml.safe_load((the_run(workplace) / "config.yaml").read_text())
    assert config["seed"] == 0
    assert config["model"]["context_length"] == 16
    assert config["run_dir"] == str(the_run(workplace))


def test_checkpoints_hold_nothing_unsafe_and_load(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY)
    for path in (the_run(workplace) / "checkpoints").iterdir():
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    loaded = gptlab_package.load(the_run(workplace))
    assert loaded.path.name == "best.ckpt"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("little cat feet")) == "little cat feet"
    assert loaded.model(torch.zeros(1, 16, dtype=torch.long)).shape == (1, 16, loaded.tokenizer.vocab_size)
    assert loaded.model.head.weight is loaded.model.trunk.token_embedding.weight


def test_the_same_seed_gives_the_same_run_and_another_another(gptlab: Command, workplace: Path) -> None:
    losses = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        gptlab("train", *TINY, f"run_dir={name}", f"seed={seed}", "model.dropout=0.2")
        losses[name] = [row["train/loss"] for row in rows(workplace / name)]
    assert losses["a"] == losses["b"]
    assert losses["a"] != losses["c"]


def test_resume_continues_as_if_never_stopped(gptlab: Command, workplace: Path) -> None:
    changes = ("model.dropout=0.2", "schedule.total_steps=9", "micro_batch_size=2", "data.stride=1")
    gptlab("train", *TINY, *changes, "run_dir=whole", "max_steps=9")
    gptlab("train", *TINY, *changes, "run_dir=halves", "max_steps=4")
    assert summary(workplace / "halves")["steps"] == 4
    result = gptlab("train", "resume=halves", "max_steps=9")
    assert result.status == 0, result.err
    weights = [
        torch.load(workplace / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "halves")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    losses = [
        [(row["step"], row["tokens"], row["train/loss"]) for row in rows(workplace / name)]
        for name in ("whole", "halves")
    ]
    assert losses[0] == losses[1]
    assert summary(workplace / "halves")["tokens"] == summary(workplace / "whole")["tokens"]


def test_a_moved_run_resumes_where_it_is_now(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY, "run_dir=old")
    (workplace / "old").rename(workplace / "new")
    result = gptlab("train", "resume=new", "max_steps=9")
    assert result.status == 0, result.err
    assert not (workplace / "old").exists()
    assert summary(workplace / "new")["steps"] == 9
    assert torch.load(workplace / "new" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


def test_what_may_change_in_a_resumed_run_does_and_the_rest_stays(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY, "run_dir=run", "callbacks.samples.temperature=0.5")
    changes = ("save_every=2", "validate_every=20", "callbacks.samples.max_new_tokens=3", "callbacks.curves=null")
    result = gptlab("train", "resume=run", "max_steps=9", *changes, "trainer.detect_anomaly=true")
    assert result.status == 0, result.err
    config = yaml.safe_load((workplace / "run" / "config.yaml").read_text())
    assert config["trainer"]["accelerator"] == "cpu"
    assert config["trainer"]["detect_anomaly"] is True
    samples = config["callbacks"]["samples"]
    assert (samples["temperature"], samples["max_new_tokens"]) == (0.5, 3)
    assert config["callbacks"]["curves"] is None
    previous = torch.load(workplace / "run" / "checkpoints" / "previous.ckpt", weights_only=True)
    assert previous["global_step"] == 8, "every second step"


def test_resuming_a_finished_run_says_so(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY, "run_dir=run")
    result = gptlab("train", "resume=run")
    assert result.status == 2
    assert "has finished its 6 steps" in result.err
    assert "max_steps=12" in result.err


def test_resume_refuses_what_would_change_the_training(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY, "run_dir=run")
    result = gptlab("train", "resume=run", "max_steps=12", "optimizer.lr=1")
    assert result.status == 2
    assert "optimizer.lr cannot change in a resumed run" in result.err
    (workplace / "poem.txt").write_text("another poem, another time\n" * 100)
    result = gptlab("train", "resume=run", "max_steps=12")
    assert result.status == 2
    assert "the text is not the one that" in result.err


def test_a_run_that_fails_says_where_and_is_recorded(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such word")

    monkeypatch.setattr("gptlab.training.callbacks.samples.generate", fail)
    result = gptlab("train", *TINY, "run_dir=run")
    assert result.status == 1
    assert "failed at step 3: ValueError: no such word (traceback in run/train.log)" in result.err
    assert "Traceback" not in result.out + result.err
    assert summary(workplace / "run")["status"] == "failed"
    assert "Traceback" in (workplace / "run" / "train.log").read_text()
    assert "saved up to step 3" in result.out
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    assert gptlab("train", "resume=run").status == 0
    assert "no such word" in (workplace / "run" / "train.log").read_text(), "why it failed is still to be read"


def test_a_picture_that_cannot_be_drawn_costs_no_run(
    gptlab: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr("gptlab.training.callbacks.curves.draw_curves", fail)
    result = gptlab("train", *TINY, "run_dir=run")
    assert result.status == 0
    assert "curves.png could not be drawn (no such colour)" in result.err


@pytest.mark.slow
def test_multirun_over_values_files_each_run_in_its_directory(gptlab: Command, workplace: Path) -> None:
    result = gptlab("train", *TINY, "-m", "optimizer.lr=1e-3,1e-2", "hydra.sweep.dir=sweep")
    assert result.status == 0, result.err
    for number, lr in enumerate((1e-3, 1e-2)):
        assert yaml.safe_load((workplace / "sweep" / str(number) / "config.yaml").read_text())["optimizer"]["lr"] == lr
        assert summary(workplace / "sweep" / str(number))["status"] == "finished"


def test_awkward_paths_mean_themselves(gptlab: Command, workplace: Path) -> None:
    awkward = "it's, [a] ${strange} = path"
    (workplace / f"{awkward}.txt").write_text("words and words and words again\n" * 60)
    result = gptlab("train", *TINY, f"data.path={awkward}.txt", f"run_dir={awkward}")
    assert result.status == 0, result.err
    assert summary(workplace / awkward)["status"] == "finished"
    assert yaml.safe_load((workplace / awkward / "config.yaml").read_text())["data"]["path"] == str(
        workplace / f"{awkward}.txt"
    )
    assert gptlab("generate", f"checkpoint={awkward}", "prompt=words", "max_new_tokens=3").status == 0


def start(workplace: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "run_dir=run", *arguments]
    return subprocess.Popen(command, cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_steps(run: Path, n: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "metrics.csv").exists() and len((run / "metrics.csv").read_text().splitlines()) > n:
            return
        time.sleep(0.1)
    raise AssertionError("the run did not get going")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits_with_its_status(workplace: Path, number: int, status: int) -> None:
    process = start(workplace, "max_steps=100000", "validate_every=100000", "save_every=100000")
    wait_for_steps(workplace / "run", 5)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "resume=run" in out
    content = summary(workplace / "run")
    assert content["status"] == "interrupted"
    assert content["val_loss"] is None, "who sends a signal has no time for a validation"
    assert torch.load(content["last_checkpoint"], weights_only=True)["global_step"] == content["steps"] > 4

    if number == signal.SIGINT:
        return  # it is the same from here on
    steps = content["steps"] + 3
    resumed = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "resume=run", f"max_steps={steps}"],
        **{"cwd": workplace, "capture_output": True, "text": True, "check": True},
    )
    assert "finished" in resumed.stdout
    assert [int(row["step"]) for row in rows(workplace / "run")] == list(range(1, steps + 1))


@pytest.mark.slow
@pytest.mark.parametrize("command", [[str(ROOT / "train.py")], ["-m", "gptlab", "train"]])
def test_two_cpu_ranks_share_one_run_and_see_one_rank_s_batches(workplace: Path, command: list[str]) -> None:
    uneven = ("data.val_fraction=0.1034", "micro_batch_size=1")  # 29 validation windows; two micro-batches a rank
    alone = start(workplace, "run_dir=alone", *uneven)
    alone.communicate(timeout=120)
    assert alone.returncode == 0
    arguments = [
        *TINY,
        *uneven,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "run_dir=both",
    ]
    both = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=workplace,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert both.returncode == 0, both.stderr
    run = workplace / "both"
    assert both.stdout.count("4,400 tokens") == 1, "one log"
    assert len(list(run.glob("events.*"))) == 1
    for one, two in zip(rows(workplace / "alone"), rows(run), strict=True):
        assert one["tokens"] == two["tokens"]
        assert float(one["train/loss"]) == pytest.approx(float(two["train/loss"]), rel=1e-4)
        assert float(one["grad_norm"]) == pytest.approx(float(two["grad_norm"]), rel=1e-3)
        if one["val/loss"]:
            assert float(one["val/loss"]) == pytest.approx(float(two["val/loss"]), rel=1e-4)
    assert not (workplace / "outputs").exists()
