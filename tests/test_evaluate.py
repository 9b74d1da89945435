"""`gptlab evaluate`, end to end."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import POEM, TINY, Result
from gpt2s import save_gpt2
from gptlab.checkpoint import load
from gptlab.cli import progress
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.words import WordTokenizer

Command = Callable[..., Result]

TASK = """
task: fog
dataset_path: json
dataset_kwargs: {data_files: {test: fog.json}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{text}}"
doc_to_choice: [" comes", " sits"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories of models: `gpt2s` with a tokenizer, `words` with a closed vocabulary, `mute` with none."""
    place = tmp_path_factory.mktemp("models")
    bpe = BPETokenizer.train([POEM], vocab_size=270)
    words = WordTokenizer.train(["the fog comes on little cat feet."])
    for name, tokenizer in {"gpt2s": bpe, "words": words}.items():
        save_gpt2(place / name, vocab_size=tokenizer.vocab_size)
        tokenizer.to_tokenizers().save(str(place / name / "tokenizer.json"))
    save_gpt2(place / "mute")
    return place


@pytest.fixture
def gpt2s(workplace: Path, models: Path) -> None:
    """The models, the text `poem.txt` and the task `fog.yaml`."""
    shutil.copytree(models, workplace, dirs_exist_ok=True)
    (workplace / "fog.yaml").write_text(TASK)
    (workplace / "fog.json").write_text('{"text": "The fog"}\n{"text": "It"}\n')


def measured(gptlab: Command, *arguments: str) -> dict:
    result = gptlab("evaluate", *arguments)
    assert result.status == 0, result.err
    return json.loads(result.out)


@pytest.mark.usefixtures("gpt2s")
def test_the_result_is_json_and_a_table_for_the_eye(gptlab: Command, workplace: Path) -> None:
    command = ("evaluate", "checkpoint=gpt2s", "data.path=poem.txt")
    result = gptlab(*command)
    numbers = json.loads(result.out)
    tokenizer = load("gpt2s").needed_tokenizer()
    ids = tokenizer.encode(POEM * 40)
    assert numbers["tokens"] == len(ids) - 1  # the first has no past; the end of the text is not asked for
    assert numbers["bytes"] == len((POEM * 40).encode()) - len(tokenizer.decode(ids[:1]).encode())
    assert numbers["perplexity"] == pytest.approx(math.exp(numbers["loss"]))
    in_bits = numbers["loss"] / math.log(2)
    assert numbers["bits_per_byte"] == pytest.approx(in_bits * numbers["tokens"] / numbers["bytes"])
    assert (numbers["stride"], numbers["context_length"]) == (24, 24)
    assert f"loss           {numbers['loss']:.4f} nats per token" in result.err
    near = measured(gptlab, *command[1:], "precision=bf16", "stride=24")
    assert near["loss"] == pytest.approx(numbers["loss"], rel=0.02)
    short, also_short = (measured(gptlab, *command[1:], setting) for setting in ("stride=12", "data.stride=12"))
    assert short["loss"] == also_short["loss"] != numbers["loss"]
    assert (short["stride"], short["tokens"]) == (12, numbers["tokens"])


def test_the_tail_gives_the_validation_loss_of_the_run(gptlab: Command, workplace: Path) -> None:
    bpe = ("tokenizer=bpe", "tokenizer.vocab_size=270")
    assert gptlab("train", *TINY, *bpe, "run_dir=outputs/run").status == 0
    numbers = measured(
        gptlab, "data.path=poem.txt", "data.val_fraction=0.1", "checkpoint=outputs/run/checkpoints/last.ckpt"
    )
    summary = json.loads((workplace / "outputs/run/summary.json").read_text())
    assert numbers["loss"] == pytest.approx(summary["val_loss"], rel=1e-6)
    assert numbers["bits_per_byte"] == pytest.approx(summary["val_bits_per_byte"], rel=1e-6)
    own = measured(gptlab, "checkpoint=outputs/run/checkpoints/last.ckpt")
    for name in ("loss", "bits_per_byte", "tokens", "val_fraction", "text_fingerprint", "stride"):
        assert own[name] == numbers[name]
    assert own["text"] == str(workplace / "poem.txt")
    newest = gptlab("evaluate", "data.path=poem.txt")
    assert "the newest finished run: " in newest.err
    assert json.loads(newest.out)["val_fraction"] == 1


@pytest.mark.usefixtures("gpt2s")
def test_elsewhere_than_in_a_terminal_progress_is_lines(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    result = gptlab("evaluate", "checkpoint=gpt2s", "data.path=poem.txt")
    lines = [line for line in result.err.splitlines() if line.startswith("evaluating  ")]
    assert lines
    assert all(" tokens/s  loss " in line and " ETA " in line for line in lines)


@pytest.mark.usefixtures("gpt2s")
def test_a_task_of_one_s_own(gptlab: Command) -> None:
    result = gptlab("evaluate", "checkpoint=gpt2s", "task=fog.yaml", "limit=2", "num_fewshot=1")
    assert result.status == 0, result.err
    numbers = json.loads(result.out)
    assert numbers["results"]["fog"]["acc,none"] in (0.0, 0.5, 1.0)
    assert numbers["n_shot"] == {"fog": 1}
    assert numbers["n_samples"] == {"fog": {"original": 2, "effective": 2}}
    assert (numbers["task"], numbers["limit"], numbers["checkpoint"]) == (["fog.yaml"], 2, "gpt2s")
    assert "|fog " in result.err


CASES = {
    # the arguments, and words that the sentence must have
    "no text of its own": (["checkpoint=gpt2s"], "data.path is missing: gpt2s has no text of its own"),
    "a fraction of no text": (["data.val_fraction=0.5"], "data.val_fraction goes with data.path="),
    "no such text": (["checkpoint=gpt2s", "data.path=nowhere.txt"], "nowhere.txt: no such file"),
    "text without a token": (["checkpoint=words", "data.path=blank.txt"], "the text holds no token"),
    "text of one token": (["checkpoint=gpt2s", "data.path=one.txt"], "one.txt: n_tokens=1: only a token that follows"),
    "text that the vocabulary lacks": (
        ["checkpoint=words", "data.path=poem.txt"],
        "poem.txt: the text has a part that is not in the vocabulary",
    ),
    "stride of nothing": (["checkpoint=gpt2s", "data.path=poem.txt", "stride=0"], "stride=0 must be at least 1"),
    "stride over the context": (
        ["checkpoint=gpt2s", "data.path=poem.txt", "stride=25"],
        "stride=25 must lie between 1 and context_length=24",
    ),
    "precision that is none": (["data.path=poem.txt", "precision=8"], "precision=8 must be 32 or bf16"),
    "batch of nothing": (["data.path=poem.txt", "batch_size=0"], "batch_size=0 must be a whole number from 1"),
    "no tokenizer": (["checkpoint=mute", "data.path=poem.txt"], "mute has no tokenizer"),
    "task with a text": (["task=fog.yaml", "data.path=poem.txt"], "without task=: name one, or leave data.path out"),
    "task with a stride": (["task=fog.yaml", "stride=2"], "stride=2 is for a text"),
    "limit without a task": (["data.path=poem.txt", "limit=3"], "limit=3 is for tasks"),
    "limit of nothing": (["task=fog.yaml", "limit=0"], "limit=0 must be a whole number, or a share"),
    "task that is no file of one": (["checkpoint=gpt2s", "task=poem.txt"], "task=poem.txt cannot be loaded"),
    "task whose data are not there": (["checkpoint=gpt2s", "task=empty.yaml"], "task=empty.yaml cannot be loaded"),
}


@pytest.mark.usefixtures("gpt2s")
@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_status_2(gptlab: Command, workplace: Path, case: str) -> None:
    (workplace / "one.txt").write_text("T")
    (workplace / "blank.txt").write_text(" \n ")
    (workplace / "empty.yaml").write_text(TASK.replace("fog.json", "nowhere.json"))
    arguments, words = CASES[case]
    result = gptlab("evaluate", *arguments)
    assert (result.status, result.out) == (2, "")
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert "Traceback" not in result.err


@pytest.mark.slow
def test_an_unknown_task_is_told_with_the_nearest_name(gptlab: Command) -> None:
    result = gptlab("evaluate", "task=helaswag")
    assert result.status == 2
    assert "task=helaswag is neither a task of lm-evaluation-harness nor a file; did you mean hellaswag?" in result.err


@pytest.mark.usefixtures("gpt2s")
def test_without_the_harness_the_command_that_installs_it(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gptlab.evaluation.harness", raising=False)
    monkeypatch.delattr("gptlab.evaluation.harness", raising=False)
    for name in {"lm_eval", *(name for name in sys.modules if name.startswith("lm_eval."))}:
        monkeypatch.setitem(sys.modules, name, None)
    result = gptlab("evaluate", "checkpoint=gpt2s", "task=fog.yaml")
    assert result.status == 2
    assert "task= needs lm-evaluation-harness: pip install 'gptlab[eval]'" in result.err
    assert result.err.count("\n") == 1
    assert gptlab("evaluate", "checkpoint=gpt2s", "data.path=poem.txt").status == 0  # a text needs none
