"""Models out: transformers opens what was written, and is the judge."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class

import gptlab
from conftest import HARD, POEM, choices, conf_node, has_gpt2_vocabulary
from gpt2s import some_tokens
from gptlab.checkpoint.export import export
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.init import textbook
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words_unk import UnknownWordTokenizer
from tiny_gpt import tiny_gpt


def make(tokenizer: Any, **changes: Any) -> Loaded:
    vocab_size = tokenizer.vocab_size if tokenizer is not None else 37
    model = tiny_gpt(vocab_size=vocab_size, context_length=32, attention=PlainAttention, init=textbook, **changes)
    return Loaded(model.eval(), tokenizer, {"model": {}}, Path("checkpoints", "best.ckpt"), "a-run", {})


def assert_transformers_has_the_same_logits(loaded: Loaded, directory: Path) -> None:
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokens = some_tokens(loaded.model.vocab_size)
    with torch.no_grad():
        assert (theirs(tokens).logits - loaded.model(tokens)).abs().max() < 1e-5


@pytest.fixture(params=choices("tokenizer"), scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Path]:
    if request.param == "gpt2" and not has_gpt2_vocabulary():
        pytest.skip("GPT-2's vocabulary is not cached")
    node = conf_node("tokenizer", request.param)
    loaded = make(get_class(node.pop("_target_")).train([POEM * 3], **node))
    directory = tmp_path_factory.mktemp("exports") / request.param
    assert export(loaded, str(directory), address="a/b") == []
    return loaded, directory


def test_transformers_gives_the_same_logits_ids_and_text(exported: tuple[Loaded, Path]) -> None:
    from transformers import AutoTokenizer

    loaded, directory = exported
    assert_transformers_has_the_same_logits(loaded, directory)
    ours, theirs = loaded.needed_tokenizer(), AutoTokenizer.from_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    assert theirs.eos_token_id == config["eos_token_id"] == ours.eot
    modes = {path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert len(modes) == 1, "as readable as the user's other files"
    takes_any_text = ours.eot is not None
    for text in (POEM, *POEM.splitlines(), *(HARD if takes_any_text else [])):
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids)


def test_it_loads_back_bit_for_bit_and_goes_out_again(exported: tuple[Loaded, Path], tmp_path: Path) -> None:
    loaded, directory = exported
    back = gptlab.load(directory)
    ours, theirs = loaded.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert back.needed_tokenizer().encode(POEM) == loaded.needed_tokenizer().encode(POEM)
    assert back.needed_tokenizer().eot == loaded.needed_tokenizer().eot
    export(back, str(tmp_path / "again"), address="a/b")
    for path in directory.iterdir():
        if path.name != "README.md":
            assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("changes", [{"tie_head": False}, {"qkv_bias": False}])
def test_every_shape_of_model_goes_out_and_comes_back(tmp_path: Path, changes: dict) -> None:
    loaded = make(CharTokenizer.train([POEM]), **changes)
    export(loaded, str(tmp_path / "out"), address="out")
    assert_transformers_has_the_same_logits(loaded, tmp_path / "out")
    ours, theirs = loaded.model.state_dict(), gptlab.load(tmp_path / "out").model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_tokenizer_that_cannot_go_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # an empty directory is filled
    complaints = export(make(None), str(tmp_path / "out"), address="out")
    assert complaints == ["a-run has no tokenizer, so the export has none"]
    assert gptlab.load(tmp_path / "out").tokenizer is None
    assert not list((tmp_path / "out").glob("tokenizer*"))
    assert export(make(UnknownWordTokenizer.train(["a <|unk|> b"])), str(tmp_path / "two"), address="two") == [
        "the vocabulary of this UnknownWordTokenizer cannot be expressed as a tokenizer.json, so the export has none"
    ]


def test_what_is_there_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make(CharTokenizer.train([POEM]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for place, words in {"mine": "exists already", ".": "is the working directory", "..": "one above it"}.items():
        with pytest.raises(UserError, match=words):
            export(loaded, place, address="out")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "mine.txt"]
