"""`gptlab inspect`, end to end."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gptlab as package
from conftest import POEM, TINY, Result
from gptlab.cli import main

Command = Callable[..., Result]

PICTURES = ["attention-layer-01.png", "attention.png", "predictions.png", "surprise.png"]


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ with one run in it, trained once for all tests."""
    place = tmp_path_factory.mktemp("trained")
    (place / "poem.txt").write_text(POEM * 40, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        arguments = ["train", *TINY, "run_dir=outputs/default/run", "callbacks.samples=null"]
        patch.setattr(sys, "argv", ["gptlab", *arguments])
        assert main(arguments) == 0
    return place / "outputs"


@pytest.fixture
def trained(gptlab: Command, a_run: Path, workplace: Path) -> Command:
    shutil.copytree(a_run, workplace / "outputs")
    return gptlab


def test_the_newest_run_is_looked_into(trained: Command) -> None:
    result = trained("inspect", "prompt=The fog")
    assert result.status == 0, result.err
    assert "looking into outputs/default/run/checkpoints/best.ckpt, 7 tokens" in result.out
    assert "tensorboard --logdir outputs" in result.out
    place = Path("outputs/default/run/inspect/The-fog")
    assert f"python -m webbrowser {(place / 'index.html').absolute().as_uri()}" in result.out
    assert sorted(path.name for path in place.glob("*.png")) == PICTURES
    page = (place / "index.html").read_text(encoding="utf-8")
    loss = re.search(r"mean loss ([\d.]+) nats", result.out)
    assert loss is not None
    assert f"{loss[1]} nats per token" in page
    run = package.load("outputs/default/run")
    ids = torch.tensor(run.needed_tokenizer().encode("The fog"))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(run.model(ids[None])[0, :-1], ids[1:])
    assert float(loss[1]) == pytest.approx(float(expected), abs=0.006)


def test_tensorboard_gets_the_pictures_the_table_and_the_embeddings(trained: Command) -> None:
    assert trained("inspect", "prompt=The fog\ncomes", "to=out").status == 0
    events = EventAccumulator("out", size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["attention/all", "attention/layer 01", "predictions", "surprise"]
    for tag in events.Tags()["images"]:
        (image,) = events.Images(tag)
        assert image.step == 6
        assert image.encoded_image_string.startswith(b"\x89PNG")
    (text,) = events.Tensors("next tokens/text_summary")
    assert "likely next" in text.tensor_proto.string_val[0].decode()
    assert 'tensor_path: "00006/token_embedding/tensors.tsv"' in Path("out/projector_config.pbtxt").read_text()
    run = package.load("outputs/default/run")
    header, *rows = Path("out/00006/token_embedding/metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "token\tid\tin the prompt"
    assert len(rows) == run.needed_tokenizer().vocab_size
    assert {len(row.split("\t")) for row in rows} == {3}
    vectors = [line.split("\t") for line in Path("out/00006/token_embedding/tensors.tsv").read_text().splitlines()]
    written = torch.tensor([[float(value) for value in vector] for vector in vectors])
    torch.testing.assert_close(written, run.model.trunk.token_embedding.weight.detach(), atol=1e-4, rtol=0)


def test_again_replaces_and_another_prompt_has_its_own(trained: Command) -> None:
    inspect = Path("outputs/default/run/inspect")
    assert trained("inspect", "prompt=The fog").status == 0
    (inspect / "The-fog" / "attention-layer-07.png").touch()  # of a deeper model
    assert trained("inspect", "prompt=The fog").status == 0
    assert len(list((inspect / "The-fog").glob("events.*"))) == 1
    assert not (inspect / "The-fog" / "attention-layer-07.png").exists()
    for prompt in ("The\nfog", "e"):
        assert trained("inspect", f"prompt={prompt}").status == 0
    names = sorted(path.name for path in inspect.iterdir())
    assert len(names) == 3
    assert names[0] == "The-fog"
    assert names[-1] == "e"


def test_what_is_not_ours_is_never_touched(trained: Command) -> None:
    assert trained("inspect", "prompt=The fog", "to=out").status == 0
    Path("out/notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    result = trained("inspect", "prompt=The fog", "to=out")
    assert result.status == 2
    assert result.err == "error: to=out holds other things (notes.txt): name a directory that is not there\n"
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_a_model_and_a_tokenizer_that_do_not_belong_together(trained: Command) -> None:
    path = Path("outputs/default/run/checkpoints/best.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["gptlab"]["tokenizer"]["characters"] += "XYZ"
    torch.save(checkpoint, "mixed.ckpt")
    result = trained("inspect", "checkpoint=mixed.ckpt", "prompt=The fog")
    assert result.status == 2
    assert re.search(r"mixed.ckpt does not fit together: its tokenizer has \d+ tokens, its model \d+", result.err)
    assert not Path("inspect").exists()


def test_a_model_that_computes_nan_is_refused(trained: Command) -> None:
    path = Path("outputs/default/run/checkpoints/best.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["model.trunk.blocks.0.attention.qkv.bias"][0] = torch.nan
    torch.save(checkpoint, "broken.ckpt")
    result = trained("inspect", "checkpoint=broken.ckpt", "prompt=The fog")
    assert result.status == 2
    assert result.err == "error: broken.ckpt computes nan: there is nothing to look at\n"
    assert not Path("inspect").exists()


def test_what_is_no_run_s_has_its_place_here(trained: Command) -> None:
    shutil.copy("outputs/default/run/checkpoints/best.ckpt", "loose.ckpt")
    assert trained("inspect", "checkpoint=loose.ckpt", "prompt=The fog").status == 0
    (place,) = Path("inspect").glob("loose-ckpt-*/The-fog")
    assert (place / "index.html").is_file()


@pytest.mark.slow
def test_a_process_that_is_told_to_go_leaves_nothing_behind(trained: Command, workplace: Path) -> None:
    code = """
import os, signal
import gptlab.inspection.files as files
from gptlab.cli import main
save = files.save
def told_to_go(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
files.save = told_to_go
raise SystemExit(main(["inspect", "prompt=The fog", "to=here/out"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 143
    assert run.stderr == "terminated\n"
    assert sorted(path.name for path in workplace.iterdir()) == ["outputs", "poem.txt"]
