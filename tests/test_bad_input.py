"""What a user can do wrong: one sentence, status 2, no traceback, nothing left behind."""

import errno
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import POEM, ROOT, TINY, Result
from gpt2s import save_gpt2
from gptlab.tokenizer.bpe import BPETokenizer

Command = Callable[..., Result]

START = tuple(key for key in TINY if not key.startswith(("model.n", "model.d_model", "tokenizer")))
"""The same run, but for what weights decide."""

CASES = {
    # the command line, and words that the sentence must have
    "unknown key": (["train", "n_layers=3"], ["n_layers", "model.n_layers"]),
    "name of nanoGPT": (["train", "n_layer=3"], ["n_layer is not a setting: write model.n_layers=<value>"]),
    "learning rate at the root": (["train", "lr=1e-3"], ["lr is not a setting: write optimizer.lr=<value>"]),
    "learning rate by its full name": (["train", "learning_rate=1e-3"], ["write optimizer.lr=<value>"]),
    "epochs": (["train", "epochs=3"], ["write max_steps=<value>", "optimizer steps"]),
    "epochs as Lightning's": (["train", "trainer.max_epochs=3"], ["write max_steps=<value>"]),
    "width as nanoGPT's": (["train", "n_embd=64"], ["write model.d_model=<value>"]),
    "heads as nanoGPT's": (["train", "n_head=2"], ["write model.n_heads=<value>"]),
    "batch": (["train", "batch=4"], ["write batch_size=<value>"]),
    "accumulation": (["train", "accumulate_grad_batches=2"], ["write micro_batch_size=<value>", "accumulate"]),
    "clipping": (["train", "trainer.gradient_clip_val=1"], ["write grad_clip=<value>"]),
    "smoke run": (["train", "fast_dev_run=true"], ["write max_steps=2"]),
    "devices at the root": (["train", "devices=2"], ["write trainer.devices=<value>"]),
    "number of samples": (["generate", "n=3"], ["write num_samples=<value>"]),
    "path for a group": (["train", "data=/a/book.txt"], ["for a file write data.path=/a/book.txt"]),
    "path of an experiment": (["train", "experiment=a/wide.yaml"], ["--config-dir=<directory> experiment=wide"]),
    "directory of Hydra's": (["train", "hydra.run.dir=here"], ["name the run's directory with run_dir=<directory>"]),
    "completion of an installed command": (["train", "--shell-completion", "install=bash"], ["knows train.py only"]),
    "resume=auto without a place": (["train", "resume=auto"], ["resume=auto", "add run_dir=<directory>"]),
    "class of a module that is not there": (
        ["train", "model._target_=nowhere.Model"],
        ["model._target_=nowhere.Model cannot be imported", "nowhere"],
    ),
    "model that is none": (["train", "model._target_=torch.nn.Identity"], ["model", "LanguageModel"]),
    "unknown key in a group": (
        ["train", "model.n_layer=3"],
        ["model.n_layer is not a setting", "model.n_layers"],
    ),
    "unknown added key": (["train", "+model.depth=3"], ["model.depth is not a setting of GPT"]),
    "unknown key added at the root": (["train", "+sed=3"], ["sed is not a setting", "did you mean seed"]),
    "group taken away": (["train", "~model"], ["model is missing"]),
    "callback that is no node": (["train", *TINY, "callbacks.samples=3"], ["callbacks.samples has no _target_"]),
    "part that is no node": (["train", "model.init=null"], ["model.init=null must be a node"]),
    "empty run directory": (["train", "run_dir="], ["run_dir, resume and resume_sweep name a directory"]),
    "endless learning rate": (["train", "optimizer.lr=inf"], ["optimizer.lr=inf", "finite"]),
    "path over two lines": (["train", "data=text", "data.path=no\nfile"], ["data.path=no file", "no such file"]),
    "unknown group": (["train", "modle=gpt2"], ["modle is not a setting", "did you mean model"]),
    "unknown choice": (
        ["train", "model=gpt3"],
        ["model=gpt3 is not one of the choices", "did you mean gpt2"],
    ),
    "unknown nested choice": (
        ["train", "model/attention=fussed"],
        ["model/attention=fussed", "did you mean fused"],
    ),
    "unknown experiment": (["train", "experiment=shakespear"], ["did you mean shakespeare_char"]),
    "a root setting in the trainer": (
        ["train", "trainer.max_steps=3"],
        ["trainer.max_steps", "max_steps=<value>"],
    ),
    "our setting pushed into the trainer": (["train", "+trainer.max_steps=3"], ["trainer.max_steps", "root"]),
    "no override": (["train", "foo"], ["'foo'", "key=value"]),
    "unreadable override": (["train", "seed=[1,"], ["seed=[1,"]),
    "wrong type": (["train", "model.n_layers=abc"], ["model.n_layers=abc must be a whole number"]),
    "wrong type of a list": (["train", "optimizer.betas=[0.9]"], ["optimizer.betas", "list"]),
    "wrong type at the root": (["train", "max_steps=many"], ["max_steps=many must be a whole number"]),
    "fraction for a whole number": (["train", "batch_size=2.5"], ["batch_size=2.5 must be a whole number"]),
    "null where a value is needed": (["train", "seed=null"], ["seed=null must be a whole number"]),
    "heads do not divide": (["train", "model.n_heads=5"], ["d_model=256 is not divisible by n_heads=5"]),
    "no steps": (["train", "max_steps=0"], ["max_steps=0 must be at least 1"]),
    "dropout of one": (["train", "model.dropout=1"], ["model.dropout=1", "[0, 1)"]),
    "negative lr": (["train", "optimizer.lr=-1"], ["optimizer.lr=-1"]),
    "warm-up longer than the run": (
        ["train", "max_steps=10", "schedule.warmup_steps=50"],
        ["schedule.warmup_steps=50"],
    ),
    "vocabulary below the bytes": (
        ["train", "tokenizer.vocab_size=100"],
        ["tokenizer.vocab_size=100", "257"],
    ),
    "batch does not divide": (
        ["train", "batch_size=10", "micro_batch_size=4"],
        ["batch_size=10 is not divisible by micro_batch_size=4"],
    ),
    "devices do not divide": (
        ["train", "batch_size=3", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"],
        ["batch_size=3 is not divisible by the 2 devices"],
    ),
    "precision that a cpu lacks": (
        ["train", "trainer=cpu", "trainer.precision=16-mixed"],
        ["precision=16-mixed", "cpu"],
    ),
    "accelerator that is none": (["train", "trainer.accelerator=tpu"], ["trainer.accelerator=tpu must be"]),
    "strategy that is none": (["train", "trainer.strategy=magic"], ["trainer.strategy=magic must be auto or ddp"]),
    "strategy of sharded models": (["train", "trainer.strategy=fsdp"], ["trainer.strategy=fsdp must be auto or ddp"]),
    "profiler that is none": (["train", *TINY, "trainer.profiler=magic"], ["trainer", "profiler"]),
    "trainer setting taken away": (["train", "~trainer.devices"], ["trainer.devices is missing"]),
    "seed too large": (["train", "seed=99999999999999999999"], ["seed=99999999999999999999 must lie in"]),
    "bad setting of a callback": (
        ["train", "callbacks.samples.temperature=-1"],
        ["callbacks.samples.temperature=-1"],
    ),
    "sample prompt outside the vocabulary": (
        ["train", *TINY, "callbacks.samples.prompt=XYZ"],
        ["callbacks.samples.prompt=XYZ", "the character 'X' is not in the vocabulary"],
    ),
    "missing path": (["train", "data=text"], ["data.path is missing", "data.path=<value>"]),
    "no such text": (
        ["train", "data=text", "data.path=nowhere.txt"],
        ["data.path=nowhere.txt", "no such file"],
    ),
    "empty text": (["train", "data=text", "data.path=empty.txt"], ["data.path=empty.txt", "no text"]),
    "empty directory": (["train", "data=text", "data.path=folder"], ["data.path=folder", ".txt"]),
    "text that is not UTF-8": (
        ["train", "data=text", "data.path=latin.txt"],
        ["latin.txt is not UTF-8", "offset 3"],
    ),
    "text shorter than a window": (
        ["train", "data=text", "data.path=short.txt", "tokenizer=char"],
        ["short.txt is too short", "context_length + 1 = 129"],
    ),
    "broken gzip": (["train", "data=text", "data.path=broken.txt.gz"], ["broken.txt.gz cannot be read"]),
    "val_fraction of everything": (["train", "data.val_fraction=1"], ["data.val_fraction=1"]),
    "stride of nothing": (["train", "data.stride=0"], ["data.stride=0"]),
    "output that cannot be written": (
        ["train", *TINY, "run_dir=poem.txt/run"],
        ["run_dir=poem.txt/run cannot be written"],
    ),
    "cache that cannot be written": (
        ["train", "data.cache_dir=poem.txt/cache"],
        ["poem.txt/cache", "data.cache_dir="],
    ),
    "name that means the newest run": (["train", "run_dir=last"], ["run_dir=last has a meaning for resume="]),
    "end by the clock": (["train", "+trainer.max_time=00:00:01:00"], ["trainer.max_time is decided by gptlab"]),
    "policy that is none": (["train", "on_nonfinite=ignore"], ["on_nonfinite=ignore must be stop or skip"]),
    "resume of the newest of none": (["train", "resume=last"], ["resume=last: there is no run under outputs"]),
    "resume of nothing": (["train", "resume=nowhere"], ["nowhere is no run directory"]),
    "no run yet": (["generate", "prompt=a"], ["no run under outputs"]),
    "no such checkpoint": (["generate", "prompt=a", "checkpoint=nowhere.ckpt"], ["nowhere.ckpt"]),
    "directory without checkpoint": (
        ["generate", "prompt=a", "checkpoint=folder"],
        ["folder holds no checkpoint"],
    ),
    "text as a checkpoint": (
        ["generate", "prompt=a", "checkpoint=poem.txt"],
        ["poem.txt is truncated, damaged, or not"],
    ),
    "empty file as a checkpoint": (
        ["generate", "prompt=a", "checkpoint=empty.txt"],
        ["empty.txt is truncated"],
    ),
    "foreign checkpoint": (
        ["generate", "prompt=a", "checkpoint=foreign.pt"],
        ["foreign.pt", "no checkpoint of gptlab"],
    ),
    "malicious checkpoint": (["generate", "prompt=a", "checkpoint=malicious.pt"], ["malicious.pt"]),
    "malicious config in a checkpoint": (
        ["generate", "prompt=a", "checkpoint=target.pt"],
        ["os.system", "trust=os"],
    ),
    "malicious config in a list": (["generate", "prompt=a", "checkpoint=list.pt"], ["os.system", "trust=os"]),
    "unknown Hub id": (
        ["generate", "prompt=a", "checkpoint=nobody/nothing"],
        ["nobody/nothing is no file or directory here", "/nobody/nothing: it does not exist, or is private"],
    ),
    "unknown start": (["train", *TINY, "init_from=nobody/nothing"], ["/nobody/nothing: it does not exist"]),
    "start of nothing": (["train", *TINY, "init_from="], ["init_from= is empty"]),
    "start that is a path": (["train", *TINY, "init_from=./nothing"], ["./nothing does not exist"]),
    "start without weights": (
        ["train", *TINY, "init_from=halves"],
        ["halves cannot be read: it has no model.safetensors"],
    ),
    "start of another architecture": (["train", *TINY, "init_from=llama"], ["its architecture is llama"]),
    "start with a pickle": (["train", *TINY, "init_from=pickled"], ["only safetensors are read"]),
    "start with other sizes": (
        ["train", *TINY, "init_from=gpt2s"],
        ["model.n_layers=1: init_from=gpt2s has 2; leave it out"],
    ),
    "start with another tokenizer": (
        ["train", *START, "tokenizer=char", "init_from=gpt2s"],
        ["tokenizer: init_from=gpt2s brings its own, a HuggingFaceTokenizer"],
    ),
    "start with another setting of a tokenizer": (
        ["train", *START, "tokenizer.vocab_size=999", "init_from=gpt2s"],
        ["tokenizer: init_from=gpt2s brings its own"],
    ),
    "start with other first weights": (
        ["train", *START, "model/init=textbook", "init_from=gpt2s"],
        ["model/init: init_from=gpt2s has weights already"],
    ),
    "model with a shorter context": (
        ["train", *TINY, "model.context_length=8"],
        ["model.context_length=8 is less than context_length=16"],
    ),
    "start with a longer context": (
        ["train", *START, "init_from=gpt2s", "context_length=25"],
        ["context_length=25: init_from=gpt2s has 24 positions"],
    ),
    "start without a tokenizer that would fit": (
        ["train", *START, "tokenizer=char", "init_from=mute"],
        ["init_from=mute has 61 tokens and no tokenizer of its own", "this run's tokenizer has"],
    ),
    "generation without a tokenizer": (["generate", "prompt=a", "checkpoint=mute"], ["mute has no tokenizer"]),
    "export to nowhere": (["export", "checkpoint=gpt2s"], ["to is missing", "to=<value>"]),
    "export to an empty name": (["export", "checkpoint=gpt2s", "to="], ["to= is the working directory"]),
    "export onto something": (["export", "checkpoint=gpt2s", "to=folder_of_mine"], ["exists already"]),
    "export onto a file": (["export", "checkpoint=gpt2s", "to=poem.txt"], ["exists already"]),
    "export onto oneself": (["export", "checkpoint=gpt2s", "to=."], ["to=. is the working directory"]),
    "push to no one's name": (["export", "checkpoint=gpt2s", "to=out", "push_to=gpt2"], ["write user/name"]),
    "export below a file": (["export", "checkpoint=gpt2s", "to=poem.txt/out"], ["to=poem.txt/out cannot be written"]),
    "export of nothing": (["export", "checkpoint=./nothing", "to=out"], ["./nothing does not exist"]),
    "checkpoint without a name": (["generate", "prompt=a", "checkpoint="], ["the name of the model is empty"]),
    "export without a run": (["export", "to=out"], ["no run under outputs"]),
    "push without a login": (
        ["export", "checkpoint=gpt2s", "to=out", "push_to=me/mine"],
        ["push_to=me/mine needs a login"],
    ),
    "push to no name": (["export", "checkpoint=gpt2s", "to=out", "push_to=a/b/c"], ["is not a repository's name"]),
    "unknown setting of export": (["export", "too=out"], ["too is not a setting", "did you mean to"]),
    "inspection of nothing": (["inspect", "checkpoint=gpt2s"], ["prompt is missing", "prompt=<value>"]),
    "inspection of an empty prompt": (["inspect", "checkpoint=gpt2s", "prompt="], ["prompt= is empty", "one token"]),
    "inspection over the context": (
        ["inspect", "checkpoint=gpt2s", f"prompt={POEM}"],
        ["tokens: 1 to 24 of this model can be shown"],
    ),
    "inspection of too much": (
        ["inspect", "checkpoint=long", f"prompt={POEM * 2}"],
        ["tokens: 1 to 128 of this model can be shown"],
    ),
    "inspection of two prompts": (["inspect", "prompt=a", "prompt=b"], ["prompt=['a', 'b'] must be text"]),
    "inspection without a tokenizer": (["inspect", "checkpoint=mute", "prompt=a"], ["mute has no tokenizer"]),
    "inspection onto something": (
        ["inspect", "checkpoint=gpt2s", "prompt=a", "to=folder_of_mine"],
        ["to=folder_of_mine holds other things (mine.txt)"],
    ),
    "inspection onto a file": (
        ["inspect", "checkpoint=gpt2s", "prompt=a", "to=poem.txt"],
        ["to=poem.txt is there already"],
    ),
    "inspection below a file": (
        ["inspect", "checkpoint=gpt2s", "prompt=a", "to=poem.txt/out"],
        ["to=poem.txt/out cannot be written"],
    ),
    "inspection of where one stands": (
        ["inspect", "checkpoint=gpt2s", "prompt=a", "to=."],
        ["is the working directory"],
    ),
    "inspection to an empty name": (["inspect", "checkpoint=gpt2s", "prompt=a", "to="], ["to= is empty"]),
    "inspection with no next tokens": (["inspect", "prompt=a", "top_k=0"], ["top_k=0 must be at least 1"]),
    "inspection without a run": (["inspect", "prompt=a"], ["no run under outputs"]),
    "unknown setting of inspect": (["inspect", "promt=a"], ["promt is not a setting", "did you mean prompt"]),
    "attention prompt outside the vocabulary": (
        ["train", *TINY, "callbacks=attention", "callbacks.attention.prompt=XYZ"],
        ["callbacks.attention.prompt=XYZ", "the character 'X' is not in the vocabulary"],
    ),
    "attention prompt over the context": (
        ["train", *TINY, "callbacks=attention", "callbacks.attention.prompt=on little cat feet."],
        ["callbacks.attention.prompt has 19 tokens: at most 16"],
    ),
    "empty attention prompt": (
        ["train", *TINY, "callbacks=attention", "callbacks.attention.prompt="],
        ["callbacks.attention.prompt is empty"],
    ),
    "negative temperature": (["generate", "prompt=a", "temperature=-0.5"], ["temperature=-0.5 must be 0"]),
    "top_p of nothing": (["generate", "prompt=a", "top_p=0"], ["top_p=0 must lie in (0, 1]"]),
    "top_p above one": (["generate", "prompt=a", "top_p=1.5"], ["top_p=1.5 must lie in (0, 1]"]),
    "top_k of nothing": (["generate", "prompt=a", "top_k=0"], ["top_k=0 must be at least 1"]),
    "unknown precision": (["generate", "prompt=a", "precision=fp8"], ["precision=fp8 must be 32 or bf16"]),
    "unknown precision of a measurement": (
        ["evaluate", "checkpoint=gpt2s", "data.path=poem.txt", "precision=16"],
        ["precision=16 must be 32 or bf16"],
    ),
    "measurement with a share above one": (
        ["evaluate", "checkpoint=gpt2s", "task=arc_easy", "limit=1.5"],
        ["limit=1.5 must be a whole number, or a share between 0 and 1"],
    ),
    "task in a file that is not there": (
        ["evaluate", "checkpoint=gpt2s", "task=nope.yaml"],
        ["task=nope.yaml is neither a task of lm-evaluation-harness nor a file"],
    ),
    "key that belongs to another command": (
        ["evaluate", "experiment=verdict"],
        ["experiment is not a setting"],
    ),
    "token cache without a name": (
        ["evaluate", "checkpoint=gpt2s", "data.path=poem.txt", "data.cache_dir="],
        ["data.cache_dir= is empty"],
    ),
    "conversation of several": (
        ["generate", "interactive=true", "num_samples=2"],
        ["interactive=true answers one prompt after the other"],
    ),
    "conversation without a tokenizer": (["generate", "interactive=true", "checkpoint=mute"], ["has no tokenizer"]),
    "unknown setting of generate": (
        ["generate", "promt=a"],
        ["promt is not a setting", "did you mean prompt"],
    ),
    "setting of a schedule taken away": (["train", "~schedule.floor"], ["schedule.floor is missing"]),
    "flag instead of a setting": (
        ["train", "--max-steps=3"],
        ["--max-steps=3 is no flag", "write max_steps=3"],
    ),
    "flag that is none": (["generate", "prompt=a", "--foo"], ["--foo is no flag", "foo=<value>"]),
    "flag with a value that is none": (["train", "--cfg", "jbo"], ["--cfg", "invalid choice: 'jbo'"]),
    "multirun of a generation": (["generate", "-m", "prompt=a"], ["-m is for train"]),
    "multirun of an evaluation": (["evaluate", "limit=1,2", "--multirun"], ["-m is for train"]),
    "multirun of an inspection": (["inspect", "hydra.mode=MULTIRUN"], ["-m is for train"]),
    "multirun of an export": (["export", "-m", "to=out"], ["-m is for train"]),
    "group without a choice": (["train", "logger=null"], ["logger=null is not one of the choices (there are default"]),
    "number for a group": (["train", "model=3"], ["model=3 is not one of the choices (there are gpt2"]),
    "class that is none": (["train", "data._target_=nonsense"], ["data._target_=nonsense", "No module named"]),
    "unknown command": (["trian"], ["trian is not a command", "did you mean train"]),
}


class Malicious:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",)


@pytest.fixture(scope="session")
def all_bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bad")
    (place / "empty.txt").touch()
    (place / "folder").mkdir()
    (place / "latin.txt").write_bytes(b"caf\xe9 au lait " * 100)
    (place / "short.txt").write_text("too short")
    (place / "broken.txt.gz").write_bytes(gzip.compress(b"words " * 1000)[:-10])
    torch.save({"weights": torch.zeros(2)}, place / "foreign.pt")
    torch.save(Malicious(), place / "malicious.pt")
    touch = {"_target_": "os.system", "command": "touch executed"}
    for name, model in {
        "target.pt": touch,
        "list.pt": {"_target_": "gptlab.model.GPT", "attention": [[touch]]},
    }.items():
        ours = {"config": {"model": model, "tokenizer": {}}, "tokenizer": {}, "vocab_size": 3}
        torch.save({"gptlab": ours, "state_dict": {}}, place / name)
    (place / "folder_of_mine").mkdir()
    (place / "folder_of_mine" / "mine.txt").write_text("mine")
    bpe = BPETokenizer.train([POEM], vocab_size=270)
    save_gpt2(place / "gpt2s", vocab_size=bpe.vocab_size)
    bpe.to_tokenizers().save(str(place / "gpt2s" / "tokenizer.json"))
    shutil.copytree(place / "gpt2s", place / "long")
    save_gpt2(place / "long", vocab_size=bpe.vocab_size, n_positions=200)
    save_gpt2(place / "mute")
    for name in ("halves", "llama", "pickled"):
        shutil.copytree(place / "mute", place / name)
    (place / "halves" / "model.safetensors").unlink()
    (place / "llama" / "config.json").write_text('{"model_type": "llama"}')
    (place / "pickled" / "model.safetensors").rename(place / "pickled" / "pytorch_model.bin")
    return place


@pytest.fixture
def bad_files(workplace: Path, all_bad_files: Path) -> Path:
    shutil.copytree(all_bad_files, workplace, dirs_exist_ok=True)
    return workplace


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("case", CASES)
def test_one_sentence_status_2_nothing_left_behind(gptlab: Command, bad_files: Path, case: str) -> None:
    arguments, words = CASES[case]
    before = set(bad_files.rglob("*"))
    result = gptlab(*arguments)
    assert result.status == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.out + result.err
    for word in words:
        assert word in result.err
    assert set(bad_files.rglob("*")) == before
    for left in (Path(os.environ["XDG_CACHE_HOME"]) / "gptlab").glob("*"):
        assert left.suffix in (".lock", ".fingerprint", ".bin", ".json", ".bytes")


@pytest.mark.parametrize(
    ("number", "status", "sentence"),
    [
        (errno.ENOSPC, 1, "failed: a/file: the disk is full\n"),
        (errno.EDQUOT, 1, "failed: a/file: your share of the disk (quota) is used up\n"),
        (errno.EIO, 1, "failed: a/file: the disk cannot be read or written (input/output error)\n"),
        (errno.EROFS, 2, "error: a/file: Read-only file system\n"),
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


COMMANDS_THAT_PRINT = [
    "generate checkpoint=run prompt=It",
    pytest.param("generate checkpoint=run prompt=It num_samples=2", marks=pytest.mark.slow),
    pytest.param("evaluate checkpoint=run data.path=poem.txt", marks=pytest.mark.slow),
    pytest.param("inspect checkpoint=run prompt=It", marks=pytest.mark.slow),
    pytest.param("generate --help", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("command", COMMANDS_THAT_PRINT)
@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">/dev/full", "failed: the disk is full\n"), (">&-", "failed: standard output is closed, and what this command")],
)
def test_a_result_that_cannot_be_printed_is_no_success(
    workplace: Path, tiny_run: Path, command: str, redirection: str, reason: str
) -> None:
    (workplace / "run").symlink_to(tiny_run)
    line = f"{sys.executable} -m gptlab {command} {redirection}"
    process = subprocess.run(line, shell=True, cwd=workplace, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert reason in process.stderr
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr


def test_a_truncated_checkpoint_is_named(gptlab: Command, workplace: Path) -> None:
    gptlab("train", *TINY, "run_dir=run")
    best = workplace / "run" / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-1000])
    result = gptlab("generate", "prompt=a", "checkpoint=run")
    assert result.status == 2
    assert "best.ckpt is truncated, damaged, or not a checkpoint" in result.err


def test_a_real_process_exits_with_status_2_and_one_line(workplace: Path) -> None:
    for script, argument in (("train.py", "model.n_layer=2"), ("generate.py", "top_k=0")):
        process = subprocess.run(
            [sys.executable, str(ROOT / script), argument],
            cwd=workplace,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 2
        assert process.stdout == ""
        assert process.stderr.count("\n") == 1
    assert [path.name for path in workplace.iterdir()] == ["poem.txt"]
