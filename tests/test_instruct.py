"""Instruction tuning, end to end: train, resume, evaluate, talk, export."""

import io
import json
import random
import shutil
import string
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab as package
from conftest import TINY, Result
from gptlab.data.instructions import Instructions, Rows
from gptlab.evaluation.loss import running_loss

Command = Callable[..., Result]

SETTINGS = (
    *(setting for setting in TINY if not setting.startswith(("data", "tokenizer", "context_length"))),
    *("data=instructions", "data.path=table.json", "data.template=phi3", "context_length=64"),
    *("tokenizer=bpe", "tokenizer.vocab_size=257"),
)
ROWS = [{"instruction": "say", "input": f"{n}", "output": f"it is {n}"} for n in range(60)]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table that lies beside it."""
    from conftest import train_in

    place = tmp_path_factory.mktemp("instructed")
    (place / "table.json").write_text(json.dumps(ROWS))
    train_in(place, *SETTINGS, "data.split=textbook", "run_dir=run")
    return place


@pytest.fixture
def instructed(gptlab: Command, workplace: Path, a_run: Path) -> Command:
    shutil.copytree(a_run, workplace, dirs_exist_ok=True)
    return gptlab


def test_a_run_says_how_long_its_instructions_are_and_shows_an_answer(a_run: Path) -> None:
    log = (a_run / "run" / "train.log").read_text(encoding="utf-8")
    assert "table.json: 51 train, 3 val, 6 test instructions; tokens: mean 39.7, longest 40, response 8.8; 0 cut" in log
    assert "sample │ say\n       │ 57\n       │ => " in log
    assert "interactive=true" in log
    (events,) = (a_run / "run").glob("events.out.tfevents.*")
    assert b"    => " in events.read_bytes()
    summary = json.loads((a_run / "run" / "summary.json").read_text())
    assert summary["val_bits_per_byte"] is None
    assert summary["tokens"] == pytest.approx(6 * 4 * 8.8, abs=24), "answers alone are counted"


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(gptlab: Command, workplace: Path, packing: str) -> None:
    (workplace / "table.json").write_text(json.dumps(ROWS))
    settings = (*SETTINGS, f"data.pack={packing}", "data.mask_prompt=false", "schedule.total_steps=6", "max_steps=4")
    for arguments in [
        (*settings, "max_steps=6", "run_dir=whole"),
        (*settings, "run_dir=two"),
        ("resume=two", "max_steps=6"),
    ]:
        result = gptlab("train", *arguments)
        assert result.status == 0, result.err
    weights = [dict(package.load(name).model.named_parameters()) for name in ("whole", "two")]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    (workplace / "table.json").write_text(json.dumps(ROWS[:-1]))
    assert "the text is not the one that" in gptlab("train", "resume=two", "max_steps=8").err


def test_answers_stand_beside_their_references_with_scores(instructed: Command, workplace: Path) -> None:
    named = ("data=instructions", "data.path=table.json")
    result = instructed("evaluate", "checkpoint=run", *named, "split=test", "to=answers.json", "max_new_tokens=9")
    assert result.status == 0, result.err
    numbers, written = json.loads(result.out), json.loads((workplace / "answers.json").read_text())
    assert [row["input"] for row in written] == [str(n) for n in range(51, 57)], "the run's own split"
    assert {"instruction", "input", "output", "answer", "exact_match", "token_f1"} == written[0].keys()
    assert numbers["token_f1"] == pytest.approx(sum(row["token_f1"] for row in written) / 6)
    assert numbers["echo_token_f1"] == pytest.approx(2 * 1 / (1 + 3))
    assert "  echo_token_f1     0.5000\n" in result.err
    loaded = package.load("run")
    data = Instructions(
        **{"path": "table.json", "template": loaded.template, "split": "textbook", "seed": 0, "num_workers": 0},
        **{"mask_prompt": True, "pack": False},
    )
    documents = [data.encode(one, loaded.needed_tokenizer(), 64) for one in data.parts()["test"]]
    (loss,) = running_loss(
        loaded.model, [Rows(documents, 64, mask_prompt=True, pack=False).batch(torch.arange(6).numpy())]
    )
    assert (numbers["loss"], numbers["tokens"]) == (pytest.approx(loss.mean), loss.count)
    own = json.loads(instructed("evaluate", "checkpoint=run", "max_new_tokens=9").out)
    assert (own["loss"], own["token_f1"]) == (numbers["loss"], numbers["token_f1"])
    other = json.loads(instructed("evaluate", "checkpoint=run", *named, "data.template=chatml", "split=all").out)
    assert other["instructions"] == 60
    assert other["loss"] != numbers["loss"]


WRONG = {
    "data=instructions data.path=table.json to=table.json": "to=table.json exists already",
    "data=instructions data.path=table.json to=no/answers.json": "to=no/answers.json: there is no directory",
    "data=instructions data.path=nowhere.json": "data.path=nowhere.json cannot be read: No such file",
    "data=instructions data.path=few.json data.split=column": "row 1 has no column split",
    "data=instructions data.path=few.json": "few.json has no instructions for split=test (it has 0 train",
    "data=instructions data.path=table.json data.template=alpacca": "did you mean alpaca",
    "data=instructions data.path=table.json split=dev": "split=dev must be train or val or test or all",
    "data.path=poem.txt to=answers.json": "to=answers.json is for answers to instructions",
}


@pytest.mark.parametrize("settings", WRONG)
def test_what_is_wrong_is_one_sentence(instructed: Command, workplace: Path, settings: str) -> None:
    (workplace / "few.json").write_text(json.dumps(ROWS[:1]))
    result = instructed("evaluate", "checkpoint=run", *settings.split())
    assert (result.status, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("error: ")
    assert WRONG[settings] in result.err


def test_a_conversation_is_written_in_the_run_s_template(
    instructed: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructed("evaluate", "checkpoint=run", "to=answers.json", "max_new_tokens=9", "batch_size=1")
    answer = json.loads((workplace / "answers.json").read_text())[0]["answer"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    command = ("generate", "checkpoint=run", "prompt=say\n51", "max_new_tokens=9", "greedy=true")
    result = instructed(*command, "interactive=true")
    assert result.out == answer + "\n"
    assert "it was trained to answer: interactive=true" in instructed(*command).err


def test_transformers_writes_a_conversation_as_training_did(instructed: Command) -> None:
    from transformers import AutoTokenizer

    assert instructed("export", "checkpoint=run", "to=out").status == 0
    loaded = package.load("run")
    theirs = AutoTokenizer.from_pretrained("out")
    talk = [
        {"role": "user", "content": "say\n5"},
        {"role": "assistant", "content": "it"},
        {"role": "user", "content": "6"},
    ]
    text = theirs.apply_chat_template(talk, tokenize=False)
    first, second = loaded.template.turn("say\n5", is_first=True), loaded.template.turn("6", is_first=False)
    assert text == f"{first}it{second}"
    assert theirs(text)["input_ids"] == loaded.needed_tokenizer().encode(text)
    again = package.load("out").template
    assert (again.chat_template, again.input) == (loaded.template.chat_template, loaded.template.input)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_model_learns_to_reverse_words(gptlab: Command, workplace: Path) -> None:
    letters = random.Random(0)
    words = ["".join(letters.choices(string.ascii_uppercase, k=4)) for _ in range(8000)]
    rows = [{"instruction": "Reverse", "input": word, "output": word[::-1]} for word in words]
    (workplace / "words.json").write_text(json.dumps(rows))
    result = gptlab(
        *(
            "train",
            "data=instructions",
            "data.path=words.json",
            "tokenizer=bpe",
            "tokenizer.vocab_size=275",
        ),  # a word of the template is a token
        *("data.template=phi3", "context_length=32", "trainer=cpu", "run_dir=run"),
        *("model.n_layers=2", "model.n_heads=4", "model.d_model=64", "model.dropout=0", "batch_size=64"),
        *("max_steps=300", "validate_every=150", "save_every=300", "optimizer.lr=3e-3"),
    )
    assert result.status == 0, result.err
    numbers = json.loads(gptlab("evaluate", "checkpoint=run", "batch_size=100", "max_new_tokens=8").out)
    assert numbers["exact_match"] > 0.95
    assert numbers["echo_exact_match"] < 0.05
