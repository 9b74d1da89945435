"""`train init_from=...`: a run that starts from weights that are there already."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab as package
from conftest import POEM, START, TEXTS, TINY, Result, needs_gpt2_vocabulary
from gpt2s import save_gpt2
from gptlab.cli.load import initial_model
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.training.metrics import read_metrics
from local_hub import LocalHub

Command = Callable[..., Result]

FROZEN = ("optimizer.lr=0", "optimizer.weight_decay=0", "max_steps=2")
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
    result = gptlab("train", *START, *FROZEN, "init_from=start", "run_dir=run", "model.dropout=0.1")
    assert result.status == 0, result.err
    assert "starting from start, with 16 positions" in result.out
    before, after = weights("start"), weights("run")
    positions = "trunk.position_embedding.weight"
    assert torch.equal(before.pop(positions)[:16], after.pop(positions)), "a shorter context keeps the first"
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    run = package.load("run")
    assert run.config["model"]["dropout"] == 0.1, "the user's own"
    assert run.config["init_from"] == str(start)
    assert run.needed_tokenizer().encode(POEM) == package.load("start").needed_tokenizer().encode(POEM)
    assert re.search(r"^step 0/2  val loss \d", result.out, re.MULTILINE)
    metrics = read_metrics(Path("run/metrics.csv"))
    assert metrics["step"] == [0, 1, 2]
    assert metrics["val/loss"][0] == metrics["val/loss"][2], "step 0 shows the loss of the weights themselves"


def test_what_starts_from_weights_trains_with_dropout(start: Path) -> None:
    loaded = package.load("start")
    assert not loaded.model.training
    assert initial_model(loaded, loaded.config, loaded.needed_tokenizer()).training


def test_training_leaves_the_file_alone_that_it_began_with(gptlab: Command, start: Path) -> None:
    """The weights are mapped from it, and training writes into them."""
    before = (start / "model.safetensors").read_bytes()
    words = (*START, "context_length=24", "init_from=start", "run_dir=run", "resume=auto", "max_steps=3")
    assert gptlab("train", *words).status == gptlab("train", *words).status == 0
    assert "resume=auto: optimizer.lr was" in gptlab("train", *words, "optimizer.lr=0.5").err
    assert (start / "model.safetensors").read_bytes() == before
    name = "trunk.token_embedding.weight"
    assert not torch.equal(weights("start")[name], weights("run")[name])


def test_a_run_of_any_tokenizer_and_precision_is_a_start(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "run_dir=first", "max_steps=3", "trainer.precision=bf16-true").status == 0
    assert gptlab("train", *START, *FROZEN, "init_from=first", "run_dir=second").status == 0
    before, after = weights("first"), weights("second")
    assert all(torch.equal(before[name], after[name]) for name in before)
    stored = torch.load("second/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}, "it goes on in float32"
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
    assert read_metrics(Path("halves/metrics.csv"))["step"] == [0, 1, 2, 3, 4, 5, 6], "one step 0"


def test_weights_without_a_tokenizer_take_the_users_where_it_fits(gptlab: Command, workplace: Path) -> None:
    n_characters = len(set(POEM))
    save_gpt2(workplace / "mute", vocab_size=n_characters)
    result = gptlab("train", *START, *FROZEN, "tokenizer=char", "init_from=mute", "run_dir=run")
    assert result.status == 0, result.err
    assert torch.equal(weights("mute")["head.weight"], weights("run")["head.weight"])


def test_a_text_that_is_not_there_is_known_before_anything_is_fetched(
    gptlab: Command, start: Path, hub: LocalHub
) -> None:
    hub.add("someone/large", start)
    result = gptlab("train", "init_from=someone/large", "data=text", "data.path=nowhere.txt")
    assert result.status == 2
    assert "data.path=nowhere.txt" in result.err
    assert hub.requests == []


@pytest.mark.slow
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
