"""`gptlab evaluate`, end to end."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import POEM, TINY, Result
from gpt2s import save_gpt2
from gptlab.cli import progress
from gptlab.tokenizer.bpe import BPETokenizer

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


@pytest.fixture
def gpt2s(workplace: Path) -> BPETokenizer:
    """The tokenizer of a model in the directory `gpt2s`; the text `poem.txt` and the task `fog.yaml` beside it."""
    bpe = BPETokenizer.train([POEM], vocab_size=270)
    save_gpt2(workplace / "gpt2s", vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().save(str(workplace / "gpt2s" / "tokenizer.json"))
    (workplace / "fog.yaml").write_text(TASK)
    (workplace / "fog.json").write_text('{"text": "The fog"}\n{"text": "It"}\n')
    return bpe


def measured(gptlab: Command, *arguments: str) -> dict:
    result = gptlab("evaluate", *arguments)
    assert result.status == 0, result.err
    return json.loads(result.out)


def test_the_result_is_json_and_a_table_for_the_eye(gptlab: Command, gpt2s: BPETokenizer, workplace: Path) -> None:
    result = gptlab("evaluate", "checkpoint=gpt2s", "data.path=poem.txt")
    numbers = json.loads(result.out)
    ids = gpt2s.encode(POEM * 40)
    assert numbers["tokens"] == len(ids) - 1  # the first has no past; the end of the text is not asked for
    assert numbers["bytes"] == len((POEM * 40).encode()) - len(gpt2s.decode(ids[:1]).encode())
    assert numbers["perplexity"] == pytest.approx(math.exp(numbers["loss"]))
    in_bits = numbers["loss"] / math.log(2)
    assert numbers["bits_per_byte"] == pytest.approx(in_bits * numbers["tokens"] / numbers["bytes"])
    assert (numbers["stride"], numbers["context_length"]) == (24, 24)
    assert f"loss           {numbers['loss']:.4f} nats per token" in result.err
    assert {path.name for path in workplace.iterdir()} == {"poem.txt", "gpt2s", "fog.yaml", "fog.json"}


@pytest.mark.usefixtures("gpt2s")
def test_two_spellings_of_the_stride(gptlab: Command) -> None:
    common = ("checkpoint=gpt2s", "data.path=poem.txt")
    short, also_short = (measured(gptlab, *common, key) for key in ("stride=6", "data.stride=6"))
    whole = measured(gptlab, *common)
    assert short["loss"] == also_short["loss"] != whole["loss"]
    assert (short["stride"], short["tokens"]) == (6, whole["tokens"])


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_the_tail_gives_the_validation_loss_of_the_run(gptlab: Command, workplace: Path, tokenizer: str) -> None:
    sizes = ["tokenizer.vocab_size=270"] if tokenizer == "bpe" else []
    assert gptlab("train", *TINY, f"tokenizer={tokenizer}", *sizes, "run_dir=outputs/run").status == 0
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
def test_half_precision_is_near(gptlab: Command) -> None:
    common = ("checkpoint=gpt2s", "data.path=poem.txt")
    exact, near = measured(gptlab, *common), measured(gptlab, *common, "precision=bf16")
    assert near["precision"] == "bf16"
    assert near["loss"] == pytest.approx(exact["loss"], rel=0.02)


@pytest.mark.usefixtures("gpt2s")
def test_elsewhere_than_in_a_terminal_progress_is_lines(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    result = gptlab("evaluate", "checkpoint=gpt2s", "data.path=poem.txt")
    lines = [line for line in result.err.splitlines() if line.startswith("evaluating  ")]
    assert lines
    assert all(" tokens/s  loss " in line and " ETA " in line for line in lines)


@pytest.mark.usefixtures("gpt2s")
def test_in_a_terminal_progress_is_a_bar(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = gptlab("evaluate", "checkpoint=gpt2s", "data.path=poem.txt")
    assert "evaluating" in result.err
    assert "━" in result.err
    assert json.loads(result.out)["tokens"] > 0


@pytest.mark.usefixtures("gpt2s")
def test_a_task_of_one_s_own(gptlab: Command) -> None:
    result = gptlab("evaluate", "checkpoint=gpt2s", "task=fog.yaml", "limit=2")
    assert result.status == 0, result.err
    numbers = json.loads(result.out)
    assert numbers["results"]["fog"]["acc,none"] in (0.0, 0.5, 1.0)
    assert numbers["n_samples"] == {"fog": {"original": 2, "effective": 2}}
    assert (numbers["task"], numbers["limit"], numbers["checkpoint"]) == (["fog.yaml"], 2, "gpt2s")
    assert "|fog " in result.err


CASES = {
    # the arguments, and words that the sentence must have
    "no text of its own": (["checkpoint=gpt2s"], ["data.path is missing: gpt2s has no text of its own"]),
    "a fraction of no text": (["data.val_fraction=0.5"], ["data.val_fraction belongs to a text that data.path="]),
    "no such text": (["checkpoint=gpt2s", "data.path=nowhere.txt"], ["nowhere.txt: no such file"]),
    "text without a token": (["checkpoint=words", "data.path=blank.txt"], ["the text holds no token"]),
    "text of one token": (
        ["checkpoint=gpt2s", "data.path=one.txt"],
        ["one.txt: n_tokens=1: only a token that follows another can be a target"],
    ),
    "text that the vocabulary lacks": (["checkpoint=chars", "data.path=poem.txt"], ["poem.txt: the character 'T'"]),
    "stride of nothing": (["checkpoint=gpt2s", "data.path=poem.txt", "stride=0"], ["stride=0 must be at least 1"]),
    "stride of nothing in the group": (["checkpoint=gpt2s", "data.path=poem.txt", "data.stride=0"], ["data.stride=0"]),
    "stride over the context": (
        ["checkpoint=gpt2s", "data.path=poem.txt", "stride=25"],
        ["stride=25 must lie between 1 and context_length=24"],
    ),
    "val_fraction of nothing": (["checkpoint=gpt2s", "data.path=poem.txt", "data.val_fraction=0"], ["val_fraction=0"]),
    "precision that is none": (["data.path=poem.txt", "precision=8"], ["precision=8 must be 32 or bf16"]),
    "batch of nothing": (["data.path=poem.txt", "batch_size=0"], ["batch_size=0 must be at least 1"]),
    "unknown setting": (["strid=3"], ["strid is not a setting", "did you mean stride"]),
    "no run yet": (["data.path=poem.txt"], ["no run under outputs"]),
    "no tokenizer": (["checkpoint=mute", "data.path=poem.txt"], ["mute has no tokenizer"]),
    "no tokenizer for a task": (["checkpoint=mute", "task=fog.yaml"], ["mute has no tokenizer"]),
    "task with a text": (
        ["task=fog.yaml", "data.path=poem.txt"],
        ["data.path belongs to a text", "without task=", "leave data.path out"],
    ),
    "task with a stride": (["task=fog.yaml", "stride=2"], ["stride=2 is for a text"]),
    "task without a name": (["task="], ["task= is empty"]),
    "limit without a task": (["data.path=poem.txt", "limit=3"], ["limit=3 is for tasks"]),
    "limit of nothing": (["task=fog.yaml", "limit=0"], ["limit=0 must be a whole number, or a share"]),
    "less than no examples": (["task=fog.yaml", "num_fewshot=-1"], ["num_fewshot=-1 must be 0 or more"]),
    "task that is no file of one": (["checkpoint=gpt2s", "task=poem.txt"], ["task=poem.txt cannot be loaded"]),
    "task whose data are not there": (["checkpoint=gpt2s", "task=empty.yaml"], ["task=empty.yaml cannot be loaded"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_status_2(gptlab: Command, gpt2s: BPETokenizer, workplace: Path, case: str) -> None:
    save_gpt2(workplace / "mute")
    (workplace / "one.txt").write_text("T")
    (workplace / "blank.txt").write_text(" \n ")
    (workplace / "empty.yaml").write_text(TASK.replace("fog.json", "nowhere.json"))
    arguments, words = CASES[case]
    if "checkpoint=words" in arguments or "checkpoint=chars" in arguments:
        (workplace / "lower.txt").write_text("the fog comes on little cat feet. " * 40)
        kind = "words" if "checkpoint=words" in arguments else "char"
        train = gptlab("train", *TINY, "data.path=lower.txt", f"tokenizer={kind}", f"run_dir={arguments[0][11:]}")
        assert train.status == 0, train.err
    result = gptlab("evaluate", *arguments)
    assert result.status == 2, result
    assert result.out == ""
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in result.err
    for word in words:
        assert word in last


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
