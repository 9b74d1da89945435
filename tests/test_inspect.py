"""`gptlab inspect`, end to end."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gptlab as package
from conftest import Result

Command = Callable[..., Result]


@pytest.fixture
def trained(gptlab: Command, tiny_run: Path, workplace: Path) -> Command:
    """In a directory with one run."""
    shutil.copytree(tiny_run, workplace / "outputs/default/run")
    return gptlab


def test_the_newest_run_is_looked_into(trained: Command) -> None:
    result = trained("inspect", "prompt=The fog")
    assert result.status == 0, result.err
    assert "inspecting outputs/default/run/checkpoints/best.ckpt, 7 tokens" in result.out
    assert "tensorboard --logdir outputs" in result.out
    place = Path("outputs/default/run/inspect/The-fog")
    assert f"python -m webbrowser {(place / 'index.html').absolute().as_uri()}" in result.out
    assert [path.name for path in place.glob("*.png")] == ["attention.png"]
    page = (place / "index.html").read_text(encoding="utf-8")
    loss = re.search(r"([\d.]+) nats", result.out)
    assert loss is not None
    assert f"{loss[1]} nats per token" in page
    run = package.load("outputs/default/run")
    ids = torch.tensor(run.needed_tokenizer().encode("The fog"))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(run.model(ids[None])[0, :-1], ids[1:])
    assert float(loss[1]) == pytest.approx(float(expected), abs=0.006)


def test_tensorboard_gets_the_maps_and_the_embeddings(trained: Command) -> None:
    assert trained("inspect", "prompt=The fog\ncomes", "to=out").status == 0
    events = EventAccumulator("out", size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["attention"]
    assert [image.step for image in events.Images("attention")] == [6]
    assert 'tensor_path: "00006/token_embedding/tensors.tsv"' in Path("out/projector_config.pbtxt").read_text()
    run = package.load("outputs/default/run")
    header, *rows = Path("out/00006/token_embedding/metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "token\tid\tin the prompt"
    assert len(rows) == run.needed_tokenizer().vocab_size
    assert {len(row.split("\t")) for row in rows} == {3}
    vectors = [line.split("\t") for line in Path("out/00006/token_embedding/tensors.tsv").read_text().splitlines()]
    written = torch.tensor([[float(value) for value in vector] for vector in vectors])
    assert run.model.token_vectors is not None
    torch.testing.assert_close(written, run.model.token_vectors.detach(), atol=1e-4, rtol=0)


def test_again_replaces_and_another_prompt_has_its_own(trained: Command) -> None:
    for prompt in ("The fog", "The fog", "The\nfog"):
        assert trained("inspect", f"prompt={prompt}").status == 0
    inspect = Path("outputs/default/run/inspect")
    names = sorted(path.name for path in inspect.iterdir())
    assert len(names) == 2
    assert names[0] == "The-fog"
    assert len(list((inspect / "The-fog").glob("events.*"))) == 1


def test_what_is_not_ours_is_never_touched(trained: Command) -> None:
    assert trained("inspect", "prompt=The fog", "to=out").status == 0
    Path("out/notes.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    result = trained("inspect", "prompt=The fog", "to=out")
    assert result.status == 2
    assert "error: to=out holds other things (notes.txt): name a new directory\n" in result.err
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_what_is_no_run_s_has_its_place_here(trained: Command) -> None:
    shutil.copy("outputs/default/run/checkpoints/best.ckpt", "loose.ckpt")
    assert trained("inspect", "checkpoint=loose.ckpt", "prompt=The fog").status == 0
    (place,) = Path("inspect").glob("loose-ckpt-The-fog-*")
    assert (place / "index.html").is_file()


def test_an_attention_of_one_s_own_has_a_page_without_maps(trained: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise ValueError("Mine mixes tokens in another way")

    monkeypatch.setattr("gptlab.model.GPT.capture", refuse)
    result = trained("inspect", "prompt=The fog", "to=out")
    assert result.status == 0, result.err
    assert "without attention: Mine mixes tokens in another way" in result.out
    assert not Path("out/attention.png").exists()
