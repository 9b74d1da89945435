"""`adapter=lora`, end to end: train, resume, load, merge, export, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gptlab as package
from conftest import START, TINY, Result, train_in
from gptlab.training.metrics import read_metrics
from same_run import summary, weights

Command = Callable[..., Result]

LORA = (*START, "adapter=lora", "adapter.rank=4", "optimizer.lr=0.01", "callbacks.curves=null")
GREEDY = ("prompt=The fog", "max_new_tokens=20", "greedy=true")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a run, and `lora`, a run with an adapter of it. Both are copied for each test."""
    place = tmp_path_factory.mktemp("lora")
    train_in(place, *TINY, "run_dir=base", "callbacks.curves=null")
    train_in(place, *LORA, "init_from=base", "run_dir=lora", "adapter.dropout=0.1")
    return place


@pytest.fixture
def lora(workplace: Path, place: Path) -> Path:
    """The two runs, in the workplace; the adapter names the base by its old place, which is there too."""
    for run in ("base", "lora"):
        shutil.copytree(place / run, workplace / run)
    return workplace / "lora"


@pytest.fixture
def without_base(lora: Path, place: Path) -> Path:
    """As `lora`, but what the adapter names as its base is not there."""
    for name in ("last", "best"):
        path = lora / "checkpoints" / f"{name}.ckpt"
        content = torch.load(path, weights_only=True)
        content["gptlab"]["config"]["init_from"] = "/nowhere/base"
        torch.save(content, path)
    config = lora / "config.yaml"
    config.write_text(config.read_text().replace(str(place / "base"), "/nowhere/base"))
    return lora


def refused(result: Result, *words: str) -> None:
    assert (result.status, result.err.count("\n")) == (2, 1), result.err
    for word in words:
        assert word in result.err


def test_only_the_adapter_trains_and_is_saved(lora: Path, place: Path) -> None:
    losses = read_metrics(lora / "metrics.csv")["val/loss"]
    assert losses[0] == pytest.approx(summary(place / "base")["val_loss"], abs=1e-5), "step 0 is the base"
    n_adapter = 4 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)
    assert summary(lora)["trainable_parameters"] == n_adapter
    assert summary(lora)["parameters"] == summary(place / "base")["parameters"] + n_adapter
    assert f"({n_adapter:,} of them train)" in (lora / "train.log").read_text()
    for name in ("last", "best"):
        content = torch.load(lora / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert all(key.rpartition(".")[2] in ("lora_A", "lora_B") for key in content["state_dict"])
        assert sum(tensor.numel() for tensor in content["state_dict"].values()) == n_adapter
        assert content["gptlab"]["config"]["init_from"] == str(place / "base")
        assert len(content["gptlab"]["base_fingerprint"]) == 64
    n_states = len(torch.load(lora / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["state"])
    assert n_states == 2 * 4, "the optimizer knows the adapter alone"


def test_every_command_takes_an_adapter_merged(gptlab: Command, lora: Path) -> None:
    written = gptlab("generate", "checkpoint=lora", *GREEDY)
    assert written.status == 0, written.err
    measured = json.loads(gptlab("evaluate", "checkpoint=lora").out)
    assert measured["loss"] == pytest.approx(summary(lora)["best_val_loss"], abs=1e-5)
    assert measured["parameters"] == summary(Path("base"))["parameters"]
    assert gptlab("inspect", "checkpoint=lora", "prompt=The fog", "to=page").status == 0
    merged = gptlab("merge", "checkpoint=lora", "to=merged")
    assert merged.status == 0, merged.err
    assert gptlab("export", "checkpoint=lora", "to=exported").status == 0
    ours = package.load("lora").model.state_dict()
    for directory in ("merged", "exported"):
        theirs = package.load(directory).model.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert gptlab("generate", "checkpoint=merged", *GREEDY).out == written.out
    refused(gptlab("merge", "checkpoint=merged", "to=again"), "merged has no adapter")
    refused(gptlab("export", "checkpoint=merged", "to=again", "adapter=true"), "merged has no adapter")
    refused(gptlab("generate", "checkpoint=merged", "base=base", *GREEDY), "base=base is for adapters")


def test_an_adapter_goes_out_alone_and_peft_opens_it(gptlab: Command, lora: Path, place: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    result = gptlab("export", "checkpoint=lora", "adapter=true", "to=of-a-run")
    assert result.status == 0, result.err
    assert f"peft cannot open its base, {place / 'base'}: export that first" in result.out
    assert gptlab("export", f"checkpoint={place / 'base'}", "to=exported").status == 0
    assert gptlab("export", "checkpoint=lora", "adapter=true", "to=adapter", "base=exported").status == 0
    names = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {path.name for path in Path("adapter").iterdir()} == names
    tokens, ours = torch.arange(12).view(1, 12), package.load("lora").model
    with torch.no_grad():
        theirs = AutoPeftModelForCausalLM.from_pretrained("adapter").eval()(tokens).logits
        torch.testing.assert_close(theirs, ours(tokens), rtol=0, atol=1e-5)
    written = gptlab("generate", "checkpoint=lora", *GREEDY).out
    for directory in ("of-a-run", "adapter"):
        assert gptlab("generate", f"checkpoint={directory}", *GREEDY).out == written
    refused(gptlab("generate", "checkpoint=adapter", "base=lora", *GREEDY), "is an adapter of other weights")


def test_an_adapter_is_weights_to_start_from(gptlab: Command, lora: Path) -> None:
    again = (*LORA, "init_from=lora", "run_dir=second", "max_steps=3", "adapter.targets=[qkv]")
    assert gptlab("train", *again).status == 0
    first, second = read_metrics(lora / "metrics.csv"), read_metrics(Path("second/metrics.csv"))
    assert second["val/loss"][0] == pytest.approx(min(first["val/loss"]), abs=1e-5)
    assert gptlab("generate", "checkpoint=second", *GREEDY).status == 0, "an adapter of an adapter"


def test_a_base_is_found_by_base_and_must_be_the_one(gptlab: Command, without_base: Path) -> None:
    refused(
        gptlab("generate", "checkpoint=lora", *GREEDY),
        "lora is an adapter, and its base cannot be loaded (/nowhere/base does not exist",
        "name its base with base=",
    )
    assert gptlab("generate", "checkpoint=lora", "base=base", *GREEDY).status == 0
    assert gptlab("merge", "checkpoint=lora", "base=base", "to=merged").status == 0
    refused(gptlab("generate", "checkpoint=lora", "base=merged", *GREEDY), "lora is an adapter of other weights")
    nothing = gptlab("generate", "checkpoint=lora", "base=nothing", *GREEDY)
    refused(nothing, "nothing is no file", "name its base with base=")
    assert package.load(without_base, base="base").adapter is not None


def test_a_run_resumes_exactly(gptlab: Command, lora: Path, place: Path) -> None:
    whole = (*LORA, f"init_from={place / 'base'}", "adapter.dropout=0.1", "max_steps=6")
    assert gptlab("train", *whole, "run_dir=half", "max_steps=4", "schedule.total_steps=6", "save_every=2").status == 0
    result = gptlab("train", "resume=half", "max_steps=6", "save_every=3")
    assert result.status == 0, result.err
    assert all(torch.equal(weights(Path("half"))[name], tensor) for name, tensor in weights(lora).items())
    stopped, undisturbed = (read_metrics(run / "metrics.csv") for run in (Path("half"), lora))
    assert stopped["train/loss"] == undisturbed["train/loss"]


def test_a_run_resumes_though_its_base_has_moved(gptlab: Command, without_base: Path) -> None:
    resume = ("train", "resume=lora", "max_steps=9")
    refused(gptlab(*resume), "/nowhere/base does not exist", "name its base with init_from=")
    assert gptlab("train", *START, "init_from=base", "run_dir=other", "max_steps=2").status == 0
    refused(gptlab(*resume, "init_from=other"), "last.ckpt is an adapter of other weights than those of other")
    assert gptlab(*resume, "init_from=base").status == 0
    assert gptlab("train", "resume=lora", "max_steps=10").status == 0, "the new place is written down"
    refused(gptlab("train", "resume=base", "max_steps=9", "init_from=lora"), "init_from cannot change")


def test_a_run_killed_before_its_first_checkpoint_begins_again(gptlab: Command, lora: Path) -> None:
    shutil.rmtree(lora / "checkpoints")
    result = gptlab("train", "resume=lora")
    assert result.status == 0, result.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("init_from=null", ("an adapter needs weights", "init_from=")),
        ("adapter.rank=17", ("adapter.rank=17", "trunk.blocks.0.attention.qkv (48 x 16)", "at most 16")),
        ("adapter.rank=0", ("adapter.rank=0 must be more than 0",)),
        ("adapter.dropout=1", ("adapter.dropout=1",)),
        ("adapter.targets=[]", ("adapter.targets=[] names no layer",)),
        (
            "adapter.targets=[q_proj]",
            ("adapter.targets=q_proj matches no linear layer", "blocks.*.attention.qkv"),
        ),
        ("adapter.targets=[qkv,token_embedding]", ("adapter.targets=token_embedding matches no linear layer",)),
        ("adapter.targets=[head]", ("head shares its weight with trunk.token_embedding",)),
        ("adapter.targets=['*']", ("head shares its weight with trunk.token_embedding",)),
        ("adapter.ranks=3", ("ranks",)),
    ],
)
def test_what_cannot_be_adapted_is_one_sentence(gptlab: Command, lora: Path, change: str, words: tuple) -> None:
    refused(gptlab("train", *LORA, "init_from=base", "run_dir=new", change), *words)
    assert not Path("new").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_train_the_same_adapter(gptlab: Command, lora: Path) -> None:
    import subprocess
    import sys

    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    for name, words in {"one": (), "two": ranks}.items():
        command = [sys.executable, "-m", "gptlab", "train", *LORA, "init_from=base", f"run_dir={name}", *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert result.returncode == 0, result.stderr
    one, two = (read_metrics(Path(name, "metrics.csv")) for name in ("one", "two"))
    assert one["train/loss"][1:] == pytest.approx(two["train/loss"][1:], rel=1e-5), "after step 0, which trains nothing"
    torch.testing.assert_close(weights(Path("one")), weights(Path("two")), rtol=1e-4, atol=1e-5)
    assert gptlab("train", "resume=two", "max_steps=8", "trainer.devices=1", "trainer=cpu").status == 0
