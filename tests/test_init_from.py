"""`train init_from=...`: a run that starts from weights that are there already."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import gptlab as package
from conftest import POEM, TEXTS, TINY, Result, needs_gpt2_vocabulary
from gpt2s import save_gpt2
from gptlab.cli.init_from import initial_model
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.training.metrics import read_metrics
from local_hub import LocalHub

Command = Callable[..., Result]

START = tuple(setting for setting in TINY if not setting.startswith(("model.n", "model.d_model", "tokenizer")))
FROZEN = ("optimizer.lr=0", "optimizer.weight_decay=0")
"""A run that changes nothing, so that its checkpoint shows what it began with."""


@pytest.fixture
def start(workplace: Path) -> Path:
    """A GPT-2 with a tokenizer of its own, and 24 positions."""
    bpe = BPETokenizer.train([POEM], vocab_size=270)
    save_gpt2(workplace / "start", vocab_size=bpe.vocab_size, tie_word_embeddings=False)
    bpe.to_tokenizers().save(str(workplace / "start" / "tokenizer.json"))
    return workplace / "start"


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return package.load(path).model.state_dict()


def test_a_run_begins_with_the_weights_sizes_and_tokenizer(gptlab: Command, start: Path) -> None:
    result = gptlab(
        "train", *START, *FROZEN, "context_length=24", "init_from=start", "run_dir=run", "model.dropout=0.1"
    )
    assert result.status == 0, result.err
    assert "starting from start, with 24 positions" in result.out
    before, after = weights("start"), weights("run")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    run = package.load("run")
    assert run.config["model"]["dropout"] == 0.1, "the user's own"
    assert run.config["init_from"] == str(start)
    assert run.needed_tokenizer().encode(POEM) == package.load("start").needed_tokenizer().encode(POEM)


def test_what_starts_from_weights_trains_with_dropout(start: Path) -> None:
    loaded = package.load("start")
    assert not loaded.model.training
    assert initial_model(loaded, loaded.config).training


def test_a_shorter_context_keeps_the_first_positions(gptlab: Command, start: Path) -> None:
    assert gptlab("train", *START, *FROZEN, "init_from=start", "run_dir=run").status == 0
    name = "trunk.position_embedding.weight"
    assert torch.equal(weights("start")[name][:16], weights("run")[name])


def test_training_leaves_the_file_alone_that_it_began_with(gptlab: Command, start: Path) -> None:
    """The weights are mapped from it, and training writes into them."""
    before = (start / "model.safetensors").read_bytes()
    assert gptlab("train", *START, "init_from=start", "run_dir=run").status == 0
    assert (start / "model.safetensors").read_bytes() == before
    name = "trunk.token_embedding.weight"
    assert not torch.equal(weights("start")[name], weights("run")[name])


@pytest.mark.slow
def test_step_0_shows_the_loss_of_the_weights_themselves(gptlab: Command, start: Path) -> None:
    result = gptlab("train", *START, "init_from=start", "run_dir=run")
    assert re.search(r"^step 0/6  val loss \d", result.out, re.MULTILINE)
    rows = read_metrics(Path("run/metrics.csv"))
    assert rows["step"] == [0, 1, 2, 3, 4, 5, 6]
    assert gptlab("train", *START, *FROZEN, "init_from=start", "run_dir=frozen").status == 0
    frozen = yaml.safe_load(Path("frozen/summary.json").read_text())
    assert rows["val/loss"][0] == pytest.approx(frozen["val_loss"], abs=1e-4)
    assert math.isnan(rows["train/loss"][0])
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert gptlab("train", "resume=run", "max_steps=7").status == 0
    assert read_metrics(Path("run/metrics.csv"))["step"] == [0, 1, 2, 3, 4, 5, 6, 7], "no step 0 in a run that goes on"


def test_a_run_with_any_tokenizer_is_a_start(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "run_dir=first").status == 0
    assert gptlab("train", *START, *FROZEN, "init_from=first", "run_dir=second").status == 0
    before, after = weights("first"), weights("second")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "model.n_layers=1" in TINY
    assert package.load("second").config["model"]["n_layers"] == 1


@pytest.mark.slow
def test_it_resumes_bit_for_bit_though_the_start_is_gone(gptlab: Command, start: Path) -> None:
    settings = (*START, "init_from=start", "model.dropout=0.2", "max_steps=6")
    assert gptlab("train", *settings, "run_dir=whole").status == 0
    assert gptlab("train", *settings, "run_dir=halves", "max_steps=3", "schedule.total_steps=6").status == 0
    start.rename(start.with_name("elsewhere"))
    result = gptlab("train", "resume=halves", "max_steps=6")
    assert result.status == 0, result.err
    whole, halves = (package.load(f"{run}/checkpoints/last.ckpt").model.state_dict() for run in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_weights_without_a_tokenizer_take_the_users_where_it_fits(gptlab: Command, workplace: Path) -> None:
    n_characters = len(set(POEM))
    save_gpt2(workplace / "mute", vocab_size=n_characters)
    result = gptlab("train", *START, *FROZEN, "tokenizer=char", "init_from=mute", "run_dir=run")
    assert result.status == 0, result.err
    assert torch.equal(weights("mute")["head.weight"], weights("run")["head.weight"])


@pytest.mark.slow
def test_a_run_in_bfloat16_goes_on_in_float32(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "run_dir=short", "trainer.precision=bf16-true").status == 0
    assert gptlab("train", *START, *FROZEN, "init_from=short", "run_dir=run").status == 0
    stored = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert {tensor.dtype for tensor in weights("short").values()} == {torch.float32}


def test_a_text_that_is_not_there_is_known_before_anything_is_fetched(
    gptlab: Command, start: Path, hub: LocalHub
) -> None:
    hub.add("someone/large", start)
    result = gptlab("train", "init_from=someone/large", "data=text", "data.path=nowhere.txt")
    assert result.status == 2
    assert "data.path=nowhere.txt" in result.err
    assert hub.requests == []


@needs_gpt2_vocabulary
def test_gpt2_from_the_hub_trains_generates_and_goes_out_again(
    gptlab: Command, workplace: Path, hub: LocalHub, tmp_path: Path
) -> None:
    save_gpt2(tmp_path / "files", vocab_size=50257, n_embd=8, n_layer=1, n_head=2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    files["merges.txt"] = (TEXTS / "tiktoken-cache" / "6d1cbeee0f20b3d9449abfede4726ed8212e3aee").read_bytes()
    files["vocab.json"] = (TEXTS / "tiktoken-cache" / "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6").read_bytes()
    commit = hub.add("openai-community/gpt2", files).refs["main"]
    result = gptlab("train", *START, "init_from=gpt2", "run_dir=run", "max_steps=2")
    assert result.status == 0, result.err
    assert package.load("run").config["init_from"] == f"gpt2@{commit}"
    hub.forget()
    written = gptlab("generate", "checkpoint=run", "prompt=The fog", "max_new_tokens=8", "greedy=true")
    assert written.status == 0, written.err
    assert gptlab("export", "checkpoint=run", "to=out").status == 0
    assert "base_model: openai-community/gpt2" in Path("out/README.md").read_text()
    again = gptlab("generate", "checkpoint=out", "prompt=The fog", "max_new_tokens=8", "greedy=true")
    assert again.out == written.out


@pytest.mark.slow
def test_two_ranks_start_from_the_same_weights(gptlab: Command, start: Path) -> None:
    devices = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    settings = [setting for setting in (*START, *FROZEN) if not setting.startswith("trainer=")]
    import subprocess
    import sys

    from conftest import ROOT

    command = [sys.executable, str(ROOT / "train.py"), *settings, *devices, "init_from=start", "run_dir=run"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    name = "trunk.token_embedding.weight"
    assert torch.equal(weights("start")[name], weights("run")[name])
