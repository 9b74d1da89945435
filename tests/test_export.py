"""`gptlab export`, end to end."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gptlab as package
from conftest import TINY, Result
from local_hub import LocalHub

Command = Callable[..., Result]


@pytest.fixture
def trained(gptlab: Command) -> Command:
    assert gptlab("train", *TINY, "run_dir=outputs/default/run", "callbacks.samples.prompt=The fog").status == 0
    return gptlab


def test_the_newest_run_goes_out_and_transformers_opens_it(trained: Command, workplace: Path) -> None:
    result = trained("export", "to=my-model")
    assert result.status == 0, result.err
    assert result.err == "the newest finished run: outputs/default/run\n"
    ours = package.load("outputs/default/run")
    theirs = AutoModelForCausalLM.from_pretrained("my-model").eval()
    ids = AutoTokenizer.from_pretrained("my-model")("The fog", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [ours.needed_tokenizer().encode("The fog")]
    with torch.no_grad():
        assert (theirs(ids).logits - ours.model(ids)).abs().max() < 1e-5
    assert "hf upload '<user>/my-model' my-model" in result.out
    command = next(line.strip() for line in result.out.splitlines() if line.strip().startswith("gptlab generate"))
    assert command == "gptlab generate checkpoint=my-model prompt='It sits looking'"
    assert trained("generate", "checkpoint=my-model", "prompt=The fog").status == 0


def test_what_was_loaded_from_the_hub_is_named_as_the_base(trained: Command, hub: LocalHub) -> None:
    assert trained("export", "to=one").status == 0
    hub.add("someone/theirs", Path("one"))
    assert trained("export", "checkpoint=someone/theirs", "to=two").status == 0
    card = Path("two/README.md").read_text(encoding="utf-8")
    assert "base_model: someone/theirs" in card
    assert "trained and written" not in card


def test_the_card_says_what_the_run_was_and_where_nothing_lies(trained: Command, workplace: Path) -> None:
    trained("export", "to=my-model")
    card = Path("my-model/README.md").read_text(encoding="utf-8")
    for line in (
        "# my-model",
        "![training and validation loss](curves.png)",
        "| n_layers | 1 |",
        "| data | poem.txt |",
        "| steps | 6 |",
        "| tokens | 384 |",
        "| lr | 0.002 |",
        "tokenizer('It sits looking', return_tensors=\"pt\")",
    ):
        assert line in card
    assert "| val_loss | " in card
    assert str(workplace) not in card
    assert Path("my-model/curves.png").read_bytes() == Path("outputs/default/run/curves.png").read_bytes()


def test_a_process_that_is_told_to_go_leaves_nothing_behind(trained: Command, workplace: Path) -> None:
    code = """
import os, signal
import gptlab.checkpoint.export as export
from gptlab.cli import main
write = export.save_file
def told_to_go(*arguments, **settings):
    write(*arguments, **settings)
    os.kill(os.getpid(), signal.SIGTERM)
export.save_file = told_to_go
raise SystemExit(main(["export", "to=out", "checkpoint=outputs/default/run"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 143
    assert run.stderr == "terminated\n"
    assert sorted(path.name for path in workplace.iterdir()) == ["outputs", "poem.txt"]


def test_push_to_uploads_what_was_written(
    trained: Command, hub: LocalHub, monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_may-write")
    result = trained("export", "to=out", "push_to=me/my-model")
    assert result.status == 0, result.err
    assert f"uploaded: {hub.address}/me/my-model" in result.out
    there = hub.repositories["me/my-model"].at("main")
    assert there is not None
    assert there[1] == {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert "from_pretrained('me/my-model')" in Path("out/README.md").read_text(encoding="utf-8")
    assert trained("generate", "checkpoint=me/my-model", "prompt=The fog").status == 0


def test_a_push_that_fails_keeps_the_directory_and_says_how_to_go_on(
    trained: Command, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_may-read")
    result = trained("export", "to=out", "push_to=me/my-model", "checkpoint=outputs/default/run")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "403" in result.err
    assert f"try again: hf upload me/my-model {Path('out').absolute()}" in result.err
    assert package.load("out").tokenizer is not None
