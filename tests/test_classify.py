"""`train experiment=classify` and `gptlab classify`, end to end."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab as package
from conftest import TINY, Result, train_in
from gptlab.errors import UserError
from same_run import assert_same_run, rows, summary

Command = Callable[..., Result]

SIZES = ("context_length=16", "model.n_layers=1", "model.n_heads=2", "model.d_model=16", "trainer=cpu")
SCRATCH = ("experiment=classify", "init_from=null", "tune=all", "model=small", "tokenizer=bpe", *SIZES)
DRAWN = (*SCRATCH, "tokenizer.vocab_size=270", "data.path=messages.tsv", "max_steps=6", "validate_every=3")
CLASSIFY = (*DRAWN, "callbacks.curves=null")
START = tuple(key for key in CLASSIFY if not key.startswith(("init_from", "model", "tokenizer")))
"""The same, but for what weights decide."""


def write_messages(place: Path) -> None:
    lines = [f"ham\tsee you at {k}\n" if k % 2 else f"spam\twin {k} now\n" for k in range(80)]
    (place / "messages.tsv").write_text("".join(lines))


@pytest.fixture
def workplace(workplace: Path) -> Path:
    write_messages(workplace)
    return workplace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that is over and what it printed, for tests that only read it."""
    place = tmp_path_factory.mktemp("classified")
    write_messages(place)
    out = train_in(place, *DRAWN, "optimizer.lr=1e-2", "run_dir=run")
    return place / "run", out


def test_a_run_says_what_it_learned_and_measures_the_test_split_once(finished: tuple[Path, str]) -> None:
    run, out = finished
    for words in (
        "ham 40, spam 40",
        "baselines: always ",
        "nats per text",
        "texts/s",
        "val accuracy",
    ):
        assert words in out
    assert re.search(r"gptlab classify checkpoint=\S+ text=", out)
    assert "gptlab generate" not in out
    content = summary(run)
    low, high = content["test_accuracy_interval"]
    assert 0 <= low < content["test_accuracy"] <= high <= 1
    assert content["val_accuracy"] == pytest.approx(float(rows(run)[-1]["val/accuracy"]), rel=1e-4)
    assert sum(sum(given.values()) for given in content["test_confusion"].values()) == content["test_texts"] == 16
    recalls = [given[label] / sum(given.values()) for label, given in content["test_confusion"].items()]
    assert content["test_balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert {"confusion.png", "curves.png"} <= {path.name for path in run.iterdir()}
    assert package.load(run).config["model"]["labels"] == ["ham", "spam"]


def test_the_test_accuracy_is_that_of_the_checkpoint_that_classify_takes(
    finished: tuple[Path, str], capfd: pytest.CaptureFixture
) -> None:
    run, _ = finished
    lines = (run.parent / "messages.tsv").read_text().splitlines()
    given = package.load(run).classify([line.partition("\t")[2] for line in lines])
    right = [
        max(shares, key=lambda name: shares[name]) == line.split("\t")[0]
        for shares, line in zip(given, lines, strict=True)
    ]
    content = summary(run)
    n_wrong = content["test_texts"] - round(content["test_accuracy"] * content["test_texts"])
    assert n_wrong <= right.count(False), "its 16 texts are some of these 80"


def test_texts_are_classified_one_line_each(gptlab: Command, finished: tuple[Path, str], workplace: Path) -> None:
    run = f"checkpoint={finished[0]}"
    result = gptlab("classify", run, "text=win [1], now = 'yes'", "text=null")
    assert result.status == 0, result.err
    first, second = result.out.splitlines()
    label, *shares = first.split("\t")
    assert label in ("ham", "spam")
    assert [share.split()[0] for share in shares] == ["ham", "spam"]
    (workplace / "texts.txt").write_text("win [1], now = 'yes'\nnull\n")
    assert gptlab("classify", run, "path=texts.txt").out == result.out
    found = json.loads(gptlab("classify", run, "text=null", "json=true").out)
    assert (found["text"], found["label"]) == ("null", second.split("\t")[0])
    assert sum(found["probabilities"].values()) == pytest.approx(1)


def test_what_a_classifier_cannot_do_names_the_command_that_can(
    gptlab: Command, finished: tuple[Path, str], tiny_run: Path, workplace: Path
) -> None:
    run = finished[0]
    (workplace / "texts.txt").write_text("one\n\ntwo\n")
    for arguments, sentence in {
        ("generate", f"checkpoint={run}", "prompt=a"): f'gptlab classify checkpoint={run} text="..."',
        ("inspect", f"checkpoint={run}", "prompt=a"): f'gptlab classify checkpoint={run} text="..."',
        ("evaluate", f"checkpoint={run}"): f'gptlab classify checkpoint={run} text="..."',
        ("classify", f"checkpoint={tiny_run}", "text=a"): f'gptlab generate checkpoint={tiny_run} prompt="..."',
        ("classify", f"checkpoint={run}"): "name what to classify, either",
        ("classify", f"checkpoint={run}", "path=texts.txt"): "texts.txt, line 2: the text is empty",
        ("classify", f"checkpoint={run}", "path=none.txt"): "path=none.txt cannot be read",
        ("train", *TINY[:2], f"init_from={run}"): "is a classifier: only a classifier starts from it",
        (
            "train",
            "data=classification",
            "data.path=messages.tsv",
        ): "objective is for tokens, data has texts and model continues",
        ("train", *CLASSIFY, "model.n_layers=2.5"): "model.n_layers=2.5 must be a whole number",
        ("train", *CLASSIFY, "model.pool=max"): "model.pool=max must be last or mean or first",
    }.items():
        result = gptlab(*arguments)
        assert result.status == 2, arguments
        assert sentence in result.err
        assert result.err.count("\n") == 1
    with pytest.raises(UserError, match="is a classifier"):
        package.load(run).generate("a")


def test_a_classifier_starts_from_a_language_model_with_a_new_head(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "tokenizer=bpe", "tokenizer.vocab_size=270", "run_dir=base").status == 0
    frozen = ("max_steps=1", "optimizer.lr=0", "optimizer.weight_decay=0")
    assert gptlab("train", *START, *frozen, "init_from=base", "run_dir=first").status == 0
    base, first = (package.load(run).model.state_dict() for run in ("base", "first"))
    assert all(torch.equal(base[name], first[name]) for name in base if name.startswith("trunk."))
    assert first["head.weight"].shape == (2, 16)

    assert gptlab("train", *START, *frozen, "init_from=first", "run_dir=second", "seed=2").status == 0
    assert torch.equal(package.load("second").model.head.weight, first["head.weight"]), "the same labels: its own head"
    other = (workplace / "messages.tsv").read_text().replace("spam", "junk")
    (workplace / "messages.tsv").write_text(other)
    assert gptlab("train", *START, *frozen, "init_from=first", "run_dir=third", "seed=2").status == 0
    assert not torch.equal(package.load("third").model.head.weight, first["head.weight"])


def test_what_does_not_train_stays_as_it_was(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "tokenizer=bpe", "tokenizer.vocab_size=270", "run_dir=base").status == 0
    assert gptlab("train", *START, "init_from=base", "tune=head", "run_dir=run").status == 0
    base, run = (package.load(name).model.state_dict() for name in ("base", "run"))
    assert all(torch.equal(base[name], run[name]) for name in base if name.startswith("trunk."))
    assert summary(Path("run"))["trainable_parameters"] == run["head.weight"].numel()


def test_a_classifier_is_an_adapter_and_a_new_head(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *TINY, "tokenizer=bpe", "tokenizer.vocab_size=270", "run_dir=base").status == 0
    command = [word for word in START if not word.startswith("tune")]  # the experiment's own tune=last_block
    result = gptlab("train", *command, "init_from=base", "adapter=lora", "adapter.rank=2", "run_dir=run")
    assert result.status == 0, result.err
    saved = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert {name.rpartition(".")[2] for name in saved if "head" not in name} == {"lora_A", "lora_B"}
    assert "model.head.weight" in saved
    assert summary(Path("run"))["trainable_parameters"] == sum(weight.numel() for weight in saved.values())
    one = gptlab("classify", "checkpoint=run", "text=win 3 now")
    (workplace / "base").rename(workplace / "moved")
    assert gptlab("classify", "checkpoint=run", "text=win 3 now", "base=moved").out == one.out
    assert one.out.split("\t")[0] in ("ham", "spam")
    assert "its base cannot be loaded" in gptlab("classify", "checkpoint=run", "text=win 3 now").err


def test_a_stopped_run_resumes_bit_for_bit(gptlab: Command, workplace: Path) -> None:
    exact = (*CLASSIFY, "model.dropout=0.2", "save_every=2", "schedule.total_steps=6")
    assert gptlab("train", *exact, "run_dir=whole").status == 0
    assert gptlab("train", *exact, "run_dir=halves", "max_steps=4").status == 0
    result = gptlab("train", "resume=halves", "max_steps=6")
    assert result.status == 0, result.err
    assert [row for row in rows(Path("halves")) if row["step"] in ("5", "6")] == rows(Path("whole"))[-2:]
    one, other = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("halves", "whole"))
    assert all(torch.equal(one["state_dict"][name], other["state_dict"][name]) for name in one["state_dict"])
    automatic = ("resume=auto", "run_dir=automatic")
    assert gptlab("train", *exact, *automatic).status == gptlab("train", *exact, *automatic).status == 0
    assert_same_run(workplace / "automatic", workplace / "whole")


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one(gptlab: Command, workplace: Path) -> None:
    assert gptlab("train", *CLASSIFY, "micro_batch_size=2", "run_dir=alone").status == 0
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "micro_batch_size=2", "run_dir=both")
    command = [sys.executable, "-m", "gptlab", "train", *CLASSIFY, *ranks]
    both = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=180, check=False)
    assert both.returncode == 0, both.stderr
    for one, two in zip(rows(workplace / "alone"), rows(workplace / "both"), strict=True):
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            assert bool(one[name]) == bool(two[name])
            assert float(one[name] or 0) == pytest.approx(float(two[name] or 0), rel=1e-4)
    same = ("test_accuracy", "test_confusion")
    assert [summary(workplace / "both")[key] for key in same] == [summary(workplace / "alone")[key] for key in same]
