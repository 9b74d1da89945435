"""Models out: transformers opens what was written, and is the judge."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import gptlab
from conftest import HARD, POEM, choices, conf_node, has_gpt2_vocabulary
from gpt2s import some_tokens
from gptlab.checkpoint.export import export
from gptlab.checkpoint.loaded import Loaded
from gptlab.errors import UserError
from gptlab.model import GPT
from gptlab.model.attention.plain import PlainAttention
from gptlab.model.init import textbook
from gptlab.tokenizer.char import CharTokenizer
from gptlab.tokenizer.words_unk import UnknownWordTokenizer
from tiny_gpt import PARTS


def make(tokenizer: Any, *, tmp: Path = Path(), vocab_size: int | None = None, **changes: Any) -> Loaded:
    sizes = {"context_length": 32, "n_layers": 2, "n_heads": 2, "d_model": 16, "dropout": 0.0}
    options = {"qkv_bias": True, "tie_head": True, **PARTS, "attention": PlainAttention, "init": textbook}
    torch.manual_seed(3)
    size = vocab_size if vocab_size is not None else tokenizer.vocab_size
    model = GPT(vocab_size=size, **{**sizes, **options, **changes}).eval()  # type: ignore[arg-type]
    return Loaded(model, tokenizer, {"model": sizes}, tmp / "checkpoints" / "best.ckpt", "a-run", {})


@pytest.fixture(params=choices("tokenizer"), scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Path]:
    if request.param == "gpt2" and not has_gpt2_vocabulary():
        pytest.skip("GPT-2's vocabulary is not cached")
    node = conf_node("tokenizer", request.param)
    loaded = make(get_class(node.pop("_target_")).train([POEM * 3], **node))
    directory = tmp_path_factory.mktemp("exports") / request.param
    assert export(loaded, str(directory), address="a/b") == []
    return loaded, directory


def test_transformers_gives_the_same_logits(exported: tuple[Loaded, Path]) -> None:
    loaded, directory = exported
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokens = some_tokens(loaded.model.vocab_size)
    with torch.no_grad():
        assert (theirs(tokens).logits - loaded.model(tokens)).abs().max() < 1e-5


def test_transformers_gives_the_same_ids_and_text(exported: tuple[Loaded, Path]) -> None:
    loaded, directory = exported
    ours, theirs = loaded.needed_tokenizer(), AutoTokenizer.from_pretrained(directory)
    assert theirs.eos_token_id == ours.eot
    alphabet = st.characters(codec="utf-8") if ours.eot is not None else st.sampled_from(POEM)
    pieces = [st.text(alphabet, max_size=30), st.sampled_from(POEM.split())]
    pieces += [st.sampled_from(HARD)] if ours.eot is not None else []

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.one_of(pieces), max_size=8).map("".join))
    def check(text: str) -> None:
        try:
            ids = ours.encode(text)
        except ValueError:  # a closed vocabulary
            return
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids)

    check()


def test_it_loads_back_bit_for_bit(exported: tuple[Loaded, Path]) -> None:
    loaded, directory = exported
    back = gptlab.load(directory)
    ours, theirs = loaded.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert back.needed_tokenizer().encode(POEM) == loaded.needed_tokenizer().encode(POEM)
    assert back.needed_tokenizer().eot == loaded.needed_tokenizer().eot


def test_an_export_of_it_is_the_same(exported: tuple[Loaded, Path], tmp_path: Path) -> None:
    export(gptlab.load(exported[1]), str(tmp_path / "again"), address="a/b")
    for name in (
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (exported[1] / name).read_bytes(), name


@pytest.mark.parametrize("changes", [{"tie_head": False}, {"qkv_bias": False}, {"n_layers": 1, "n_heads": 1}])
def test_every_shape_of_model_goes_out_and_comes_back(tmp_path: Path, changes: dict) -> None:
    loaded = make(CharTokenizer.train([POEM]), **changes)
    export(loaded, str(tmp_path / "out"), address="out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = some_tokens(loaded.model.vocab_size)
    back = gptlab.load(tmp_path / "out").model
    with torch.no_grad():
        assert (theirs(tokens).logits - loaded.model(tokens)).abs().max() < 1e-5
    assert loaded.model.state_dict().keys() == back.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), back.parameters(), strict=True))


def test_without_a_tokenizer_it_is_exported_so(tmp_path: Path) -> None:
    complaints = export(make(None, vocab_size=37), str(tmp_path / "out"), address="out")
    assert complaints == ["a-run has no tokenizer, so the export has none"]
    assert gptlab.load(tmp_path / "out").tokenizer is None
    assert not list((tmp_path / "out").glob("tokenizer*"))


def test_a_tokenizer_that_cannot_be_expressed_is_named(tmp_path: Path) -> None:
    complaints = export(make(UnknownWordTokenizer.train(["a <|unk|> b"])), str(tmp_path / "out"), address="out")
    assert complaints == [
        "the vocabulary of this UnknownWordTokenizer cannot be expressed as a tokenizer.json, so the export has none"
    ]


def test_what_others_look_for_is_there(exported: tuple[Loaded, Path]) -> None:
    loaded, directory = exported
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["eos_token_id"] == loaded.needed_tokenizer().eot
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == config["eos_token_id"]
    assert json.loads((directory / "tokenizer_config.json").read_text())["split_special_tokens"] is True
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "\nlibrary_name: transformers\n" in card
    assert "from_pretrained('a/b')" in card
    modes = {path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert len(modes) == 1, "as readable as the user's other files"


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export(make(CharTokenizer.train([POEM])), str(tmp_path / "out"), address="out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_the_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (".", "..", "/", str(tmp_path)):
        with pytest.raises(UserError, match="is the working directory"):
            export(make(CharTokenizer.train([POEM])), place, address="out")
    assert tmp_path.is_dir()


def test_an_empty_directory_is_filled_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new" / "deep" / "out"):
        export(make(CharTokenizer.train([POEM])), str(place), address="out")
        assert gptlab.load(place).tokenizer is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]
