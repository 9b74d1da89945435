"""Preferences, end to end: from a run of instructions, resumed with the reference of its first session."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab as package
from conftest import TEXTS, TINY, Result, train_in
from gptlab.data.preferences import Preferences
from gptlab.data.template import Template
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.training.metrics import read_metrics
from same_run import rows

PAIRS = TEXTS / "instruction-data-with-preference.json"
ROWS = [{"instruction": f"say {n}", "chosen": f"it is {n}", "rejected": f"no {n % 9 or 'it is 9'}"} for n in range(60)]
TABLES = ("data.path=table.json", "data.template=phi3", "data.split=textbook", "context_length=64")
COMMON = [setting for setting in TINY if not setting.startswith(("data", "tokenizer", "context_length"))]
START = [setting for setting in COMMON if not setting.startswith(("model.n", "model.d_model"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on instructions, beside a table of pairs."""
    place = tmp_path_factory.mktemp("base")
    (place / "table.json").write_text(json.dumps([{**row, "output": row["chosen"]} for row in ROWS]))
    train_in(place, *COMMON, "data=instructions", *TABLES, "tokenizer=bpe", "tokenizer.vocab_size=257", "run_dir=base")
    return place


def test_it_begins_at_ln_2_and_a_resumed_run_keeps_its_reference(
    gptlab: Callable[..., Result], workplace: Path, base: Path
) -> None:
    shutil.copytree(base, workplace, dirs_exist_ok=True)
    tables = [setting for setting in TABLES if not setting.startswith("data.template")]
    command = ("train", *START, "data=preferences", "objective=dpo", *tables, "init_from=base", "schedule=constant")
    for arguments in [(*command, "run_dir=whole"), (*command, "max_steps=3", "run_dir=two")]:
        result = gptlab(*arguments)
        assert result.status == 0, result.err
    shutil.rmtree(workplace / "base")
    assert gptlab("train", "resume=two", "max_steps=6").status == 0, "it does not need the base any more"
    weights = [
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "two")
    ]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    metrics = read_metrics(workplace / "two" / "metrics.csv")
    losses = [value for value in metrics["train/loss"] if not math.isnan(value)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    first, *_, last = [value for value in metrics["val/loss"] if not math.isnan(value)]
    assert first == pytest.approx(math.log(2), abs=1e-6)
    assert last < first
    for name in ("reward_chosen", "reward_rejected", "margin", "accuracy"):
        assert f"val/{name}" in metrics
    assert "<|user|>" in package.load("two").template.chat_template, "the template of the base"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["data=instructions", "data=preferences objective=dpo"])
def test_two_ranks_have_the_losses_of_one(
    gptlab: Callable[..., Result], workplace: Path, base: Path, kind: str
) -> None:
    shutil.copytree(base, workplace, dirs_exist_ok=True)
    command = ("train", *START, *kind.split(), *TABLES, "init_from=base", "micro_batch_size=2")
    assert gptlab(*command, "run_dir=alone").status == 0
    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=both")
    words = [sys.executable, "-m", "gptlab", *command, *ranks]
    both = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    assert both.returncode == 0, both.stderr
    for one, two in zip(rows(Path("alone")), rows(Path("both")), strict=True):
        for name in ("train/loss", "val/loss"):
            assert bool(one[name]) == bool(two[name])
            assert float(one[name] or 0) == pytest.approx(float(two[name] or 0), rel=1e-4)


def preferences(path: Path) -> Preferences:
    template = Template(chat_template="{{ messages[0].content }}>", input=":")
    return Preferences(path=str(path), template=template, split="textbook", seed=0, num_workers=0)


def test_equal_answers_are_dropped_after_the_split_and_counted(tmp_path: Path) -> None:
    rows = [{**row, "rejected": row["chosen"]} if n in (3, 55) else row for n, row in enumerate(ROWS)]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    tokenizer = BPETokenizer.train([], vocab_size=257)
    data = preferences(tmp_path / "table.json").prepare(tokenizer, context_length=64, progress=lambda _, pieces: pieces)
    assert (len(data.train), len(data.val), len(data.test or ())) == (50, 3, 5)
    assert data.description.endswith("; 2 dropped, whose answers are the same")


@pytest.mark.skipif(not PAIRS.is_file(), reason="the textbook's preferences are not there")
def test_the_textbook_s_preferences() -> None:
    parts = preferences(PAIRS).parts()
    assert {name: len(part) for name, part in parts.items()} == {"train": 929, "val": 55, "test": 110}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"instruction": "a", "chosen": "b"}, "row 1 has no column rejected"),
        ({"instruction": "a", "chosen": "b", "rejected": ""}, "row 1: rejected is empty"),
        ({"instruction": "a", "choosen": "b", "rejected": "c"}, "row 1 has no column chosen; did you mean choosen?"),
        ({"instruction": "a", "chosen": 3, "rejected": "c"}, "row 1: chosen is 3, not a text"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row: dict, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps([row]))
    with pytest.raises(UserError) as error:
        preferences(tmp_path / "table.json").parts()
    assert sentence in str(error.value)
