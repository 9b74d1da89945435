"""What a user can do wrong: one sentence, status 2, no traceback, nothing left behind."""

import errno
import gzip
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gptlab as gptlab_package
from conftest import POEM, ROOT, START, TINY, Result
from gpt2s import save_gpt2
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer

Command = Callable[..., Result]

SHORT = {"TINY": TINY, "START": START}
"""What stands for several words in the commands below."""

SETTINGS = {
    # other projects' names for settings
    "n_layer=3": "n_layer is not a setting: write model.n_layers=<value>",
    "learning_rate=1e-3": "write optimizer.lr=<value>",
    "trainer.max_epochs=3": "write max_steps=<value>",
    "n_embd=64": "write model.d_model=<value>",
    "n_head=2": "write model.n_heads=<value>",
    "batch=4": "write batch_size=<value>",
    "accumulate_grad_batches=2": "write micro_batch_size=<value> ... accumulate",
    "trainer.gradient_clip_val=1": "write grad_clip=<value>",
    "fast_dev_run=true": "write max_steps=2",
    "devices=2": "write trainer.devices=<value>",
    # keys and choices
    "n_layers=3": "n_layers ... model.n_layers",
    "+model.depth=3": "model.depth is not a setting of GPT",
    "+sed=3": "sed is not a setting ... did you mean seed",
    "modle=gpt2": "modle is not a setting ... did you mean model",
    "trainer.max_steps=3": "trainer.max_steps ... max_steps=<value>",
    "+trainer.max_steps=3": "trainer.max_steps ... root",
    "seed=[1,": "seed=[1,",
    "model=gpt3": "model=gpt3 is not one of the choices ... did you mean gpt2",
    "logger=null": "logger=null is not one of the choices (there are default",
    "data=/a/book.txt": "for a file write data.path=/a/book.txt",
    "experiment=a/wide.yaml": "--config-dir=<directory> experiment=wide",
    "~model": "model is missing",
    "model.init=null": "model.init=null must be a node",
    "model._target_=nowhere.Model": "model._target_=nowhere.Model cannot be imported ... nowhere",
    "model._target_=torch.nn.Identity": "model ... LanguageModel",
    # values
    "batch_size=2.5": "batch_size=2.5 must be a whole number",
    "seed=null": "seed=null must be a whole number",
    "optimizer.betas=[0.9]": "optimizer.betas ... list",
    "optimizer.lr=inf": "optimizer.lr=inf ... finite",
    "optimizer=muon optimizer.iterations=0": "optimizer.iterations=0 must be at least 1",
    "max_steps=0": "max_steps=0 must be a whole number from 1",
    "max_steps=10 schedule.warmup_steps=50": "schedule.warmup_steps=50",
    "model.n_heads=5": "d_model=128 is not divisible by n_heads=5",
    "model.context_length=8": "model.context_length=8 is less than context_length=128",
    "tokenizer.vocab_size=100": "tokenizer.vocab_size=100 ... 257",
    "data=text": "data.path is missing ... data.path=<value>",
    "run_dir=last": "run_dir=last has a meaning for resume=",
    "init_from=": "init_from= is empty",
}
"""Settings of train, and parts of the sentence that each must have."""

COMMANDS = {
    "trian": "trian is not a command ... did you mean train",
    "train lr=1e-3": "error: lr is not a setting: write optimizer.lr=<value>",
    "train epochs=3": "write max_steps=<value> ... optimizer steps",
    "generate n=3": "write num_samples=<value>",
    "generate promt=a": "promt is not a setting ... did you mean prompt",
    "evaluate experiment=verdict": "experiment is not a setting",
    "train foo": "'foo' ... key=value",
    "train --max-steps=3": "--max-steps=3 is no flag ... write max_steps=3",
    "generate prompt=a --foo": "--foo is no flag ... foo=<value>",
    "train hydra.run.dir=here": "name the run's directory with run_dir=<directory>",
    "train --shell-completion install=bash": "knows train.py only",
    "generate -m prompt=a": "-m is for train",
    # values
    "train batch_size=10 micro_batch_size=4": "batch_size=10 is not divisible by micro_batch_size=4",
    "train data.val_fraction=1": "data.val_fraction=1",
    "train trainer=cpu trainer.precision=16-mixed": "precision=16-mixed ... cpu",
    "train trainer.strategy=fsdp": "trainer.strategy=fsdp must be auto, ddp or fsdp2",
    "train TINY trainer.profiler=magic": "trainer ... profiler",
    "train TINY callbacks.curves.every_seconds=1": "cannot be set: another override has switched callbacks.curves off",
    "train TINY callbacks.samples=3": "callbacks.samples has no _target_",
    "train callbacks.samples.temperature=-1": "callbacks.samples.temperature=-1",
    "train TINY callbacks.samples.prompt=XYZ": "callbacks.samples.prompt=XYZ ... the character 'X' is not in",
    "generate prompt=a temperature=-0.5": "temperature=-0.5 must be 0",
    "generate interactive=true num_samples=2": "interactive=true answers one prompt after the other",
    "inspect checkpoint=gpt2s prompt=": "the prompt has 0 tokens",
    f"inspect checkpoint=gpt2s prompt='{POEM}'": "tokens: 1 to 24 of this model can be shown",
    "inspect prompt=a prompt=b": "prompt=['a', 'b'] must be text",
    # files
    "train data.path='no\nfile'": "data.path=no file ... no such file",
    "train data.path=latin.txt": "latin.txt is not UTF-8 ... offset 3",
    "train data.path=short.txt tokenizer=char": "short.txt is too short ... context_length + 1 = 129",
    "train data.cache_dir=poem.txt/cache": "poem.txt/cache ... data.cache_dir=",
    "train TINY run_dir=poem.txt/run": "run_dir=poem.txt/run cannot be written",
    "train resume=auto": "resume=auto ... add run_dir=<directory>",
    "train resume=last": "resume=last: there is no run under outputs",
    "train resume=nowhere": "nowhere is no run directory",
    "export checkpoint=gpt2s": "to is missing ... to=<value>",
    "export checkpoint=gpt2s to=.": "to=. is the working directory",
    "export checkpoint=gpt2s to=poem.txt/out": "to=poem.txt/out cannot be written",
    "export checkpoint=gpt2s to=out push_to=gpt2": "write user/name",
    "export checkpoint=gpt2s to=out push_to=me/mine": "push_to=me/mine needs a login",
    "inspect checkpoint=gpt2s prompt=a to=poem.txt": "to=poem.txt cannot be written",
    "prepare path=nowhere to=out": "path=nowhere: no such file or directory",
    "prepare path=folder to=out": "path=folder: no .txt ... in this directory",
    "prepare path=void.txt to=out": "path=void.txt: there is no text in it",
    "prepare path=gpt2s/tokenizer.json to=out checkpoint=gpt2s": "tokenizer.json must end in .txt",
    "prepare path=latin.txt to=out checkpoint=gpt2s": "latin.txt is not UTF-8 ... offset 3",
    "prepare path=rows.jsonl to=out checkpoint=gpt2s": "rows.jsonl, row 1 has no column text; did you mean texts?",
    "prepare path=rows.jsonl column=texts to=out checkpoint=gpt2s": "rows.jsonl, after row 2: Expecting value",
    "prepare path=numbers.jsonl to=out checkpoint=gpt2s": "numbers.jsonl, row 1: text is 5, not a text",
    "prepare path=list.jsonl to=out checkpoint=gpt2s": "list.jsonl, row 1 is no object with named columns",
    "prepare path=cut.txt.gz to=out checkpoint=gpt2s": "cut.txt.gz cannot be read: Compressed file ended",
    "prepare path=poem.txt to=short.txt checkpoint=gpt2s": "to=short.txt is a file",
    "prepare path=poem.txt to=out shard=5/4": "shard=5/4 must be i/n with i from 0 to n - 1",
    "prepare path=poem.txt to=out workers=0": "workers=0 must be a whole number from 1",
    "prepare path=poem.txt to=out val_fraction=1 checkpoint=gpt2s": "val_fraction=1 must be at least 0",
    "prepare path=poem.txt to=out tokenizer=bpe": "prepare trains no tokenizer: use tokenizer=gpt2",
    "prepare path=poem.txt to=out tokenizer=char": "prepare trains no tokenizer: use tokenizer=gpt2",
    "prepare path=poem.txt": "to is missing",
    # models
    "generate prompt=a": "no run under outputs",
    "generate prompt=a checkpoint=": "the name of the model is empty",
    "generate prompt=a checkpoint=folder": "folder holds no checkpoint",
    "generate prompt=a checkpoint=poem.txt": "poem.txt is truncated, damaged, or not",
    "generate prompt=a checkpoint=nobody/nothing": "nobody/nothing is no file or directory here ... does not exist",
    "generate prompt=a checkpoint=mute": "mute has no tokenizer",
    "train TINY init_from=./nothing": "./nothing does not exist",
    "train TINY init_from=gpt2s": "model.n_layers: init_from=gpt2s has 2; leave it out",
    "train START tokenizer=char init_from=gpt2s": "init_from=gpt2s brings its own, a HuggingFaceTokenizer",
    "train START model/init=textbook init_from=gpt2s": "model/init: init_from=gpt2s has weights already",
    "train START init_from=gpt2s context_length=25": "context_length=25: init_from=gpt2s has 24 positions",
    "train START tokenizer=char init_from=mute": "init_from=mute has 61 tokens and no tokenizer of its own",
}
"""Command lines, and parts of the sentence that each must have."""


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_wrong_setting_is_one_sentence(workplace: Path, settings: str) -> None:
    with pytest.raises(UserError) as error:
        gptlab_package.compose(settings.split())
    for part in SETTINGS[settings].split(" ... "):
        assert part in str(error.value)


@pytest.fixture(scope="session")
def all_bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bad")
    (place / "folder").mkdir()
    (place / "latin.txt").write_bytes(b"caf\xe9 au lait " * 100)
    (place / "short.txt").write_text("too short")
    (place / "void.txt").touch()
    (place / "rows.jsonl").write_text('{"texts": "a"}\n{"texts": "b"}\n{"texts": \n')
    (place / "numbers.jsonl").write_text('{"text": 5}\n')
    (place / "list.jsonl").write_text('["a"]\n')
    (place / "cut.txt.gz").write_bytes(gzip.compress(POEM.encode())[:-20])
    bpe = BPETokenizer.train([POEM], vocab_size=270)
    save_gpt2(place / "gpt2s", vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().save(str(place / "gpt2s" / "tokenizer.json"))
    save_gpt2(place / "mute")
    return place


@pytest.fixture
def bad_files(workplace: Path, all_bad_files: Path) -> Path:
    shutil.copytree(all_bad_files, workplace, dirs_exist_ok=True)
    return workplace


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("command", COMMANDS)
def test_one_sentence_status_2_nothing_left_behind(gptlab: Command, bad_files: Path, command: str) -> None:
    arguments = [part for word in shlex.split(command) for part in SHORT.get(word, [word])]
    before = set(bad_files.rglob("*"))
    result = gptlab(*arguments)
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.out + result.err
    for part in COMMANDS[command].split(" ... "):
        assert part in result.err
    assert set(bad_files.rglob("*")) == before
    for left in (Path(os.environ["XDG_CACHE_HOME"]) / "gptlab").glob("*"):
        assert left.suffix in (".lock", ".fingerprint", ".bin", ".json", ".bytes")


@pytest.mark.parametrize(
    ("number", "status", "sentence"),
    [
        (errno.ENOSPC, 1, "failed: a/file: the disk is full\n"),
        (errno.EDQUOT, 1, "failed: a/file: your share of the disk (quota) is used up\n"),
        (errno.EIO, 1, "failed: a/file: the disk cannot be read or written (input/output error)\n"),
        (errno.EACCES, 2, "error: a/file: Permission denied\n"),
    ],
)
def test_what_a_disk_refuses_is_a_sentence(
    gptlab: Command, monkeypatch: pytest.MonkeyPatch, number: int, status: int, sentence: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "a/file")

    monkeypatch.setattr("gptlab.cli.generate.load_or_newest", refuse)
    result = gptlab("generate", "prompt=a")
    assert (result.status, result.err) == (status, sentence)


def test_a_result_that_cannot_be_printed_is_no_success(gptlab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        run = ROOT / "tests" / "checkpoint" / "run-0.1.0"
        result = gptlab("generate", f"checkpoint={run}", "prompt=The", "max_new_tokens=3")
    assert (result.status, result.err) == (1, "failed: the disk is full\n")


def test_a_real_process_exits_with_status_2_and_one_line(workplace: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "model.n_layer=2"]
    process = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1
    assert [path.name for path in workplace.iterdir()] == ["poem.txt"]
