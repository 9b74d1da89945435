"""`gptlab export`, end to end."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gptlab as package
from conftest import Result
from gptlab.checkpoint import export
from local_hub import LocalHub

Command = Callable[..., Result]


@pytest.fixture
def trained(gptlab: Command, tiny_run: Path, workplace: Path) -> Command:
    shutil.copytree(tiny_run, workplace / "outputs/default/run")
    return gptlab


def test_the_newest_run_goes_out_and_transformers_opens_it(trained: Command, workplace: Path) -> None:
    from transformers import AutoTokenizer

    result = trained("export", "to=my-model")
    assert result.status == 0, result.err
    assert result.err == "the newest finished run: outputs/default/run\n"
    ours = package.load("outputs/default/run")
    ids = AutoTokenizer.from_pretrained("my-model")("The fog", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [ours.needed_tokenizer().encode("The fog")]
    assert "hf upload '<user>/my-model' my-model" in result.out
    command = next(line.strip() for line in result.out.splitlines() if line.strip().startswith("gptlab generate"))
    assert command == "gptlab generate checkpoint=my-model prompt='It sits looking'"
    assert trained("generate", "checkpoint=my-model", "prompt=The fog", "max_new_tokens=5").status == 0


def test_the_card_says_what_the_run_was_and_where_nothing_lies(
    trained: Command, hub: LocalHub, workplace: Path
) -> None:
    trained("export", "to=my-model")
    card = Path("my-model/README.md").read_text(encoding="utf-8")
    for line in (
        "# my-model",
        "![training and validation loss](curves.png)",
        "| n_layers | 1 |",
        "| data | poem.txt |",
        "| steps | 6 |",
        "| tokens | 1,536 |",
        "| val_loss | ",
        "| lr | 0.002 |",
        "tokenizer('It sits looking', return_tensors=\"pt\")",
    ):
        assert line in card
    assert str(workplace.parent) not in card
    assert Path("my-model/curves.png").read_bytes() == Path("outputs/default/run/curves.png").read_bytes()
    hub.add("someone/theirs", Path("my-model"))
    assert trained("export", "checkpoint=someone/theirs", "to=two").status == 0
    card = Path("two/README.md").read_text(encoding="utf-8")
    assert "base_model: someone/theirs" in card
    assert "trained and written" not in card


def test_a_process_that_is_told_to_go_leaves_nothing_behind(
    trained: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export.save_file

    def told_to_go(*arguments: Any, **settings: Any) -> None:
        write(*arguments, **settings)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(export, "save_file", told_to_go)
    result = trained("export", "to=out", "checkpoint=outputs/default/run")
    assert (result.status, result.err) == (143, "terminated\n")
    assert sorted(path.name for path in workplace.iterdir()) == ["outputs", "poem.txt"]


def test_push_to_uploads_what_was_written(trained: Command, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_may-write")
    result = trained("export", "to=out", "push_to=me/my-model")
    assert result.status == 0, result.err
    assert f"uploaded: {hub.address}/me/my-model" in result.out
    written = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert hub.repositories["me/my-model"].files() == written
    assert "from_pretrained('me/my-model')" in Path("out/README.md").read_text(encoding="utf-8")
    assert trained("generate", "checkpoint=me/my-model", "prompt=The fog", "max_new_tokens=5").status == 0


def test_a_push_that_fails_keeps_the_directory_and_says_how_to_go_on(
    trained: Command, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_may-read")
    result = trained("export", "to=out", "push_to=me/my-model", "checkpoint=outputs/default/run")
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "403" in result.err
    assert f"try again: hf upload me/my-model {Path('out').absolute()}" in result.err
    assert Path("out/tokenizer.json").is_file()
