"""Damaged files: a sentence, or the result that the undamaged file gives; nothing else, however the bytes fall."""

import copy
import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptlab
from conftest import POEM
from damage import damaged
from gptlab.checkpoint.export import export
from gptlab.checkpoint.hugging_face import WEIGHTS
from gptlab.data.corpus import Corpus, TokenizerRecipe, prepare
from gptlab.data.text import TextFiles
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer


def short_and_long(short: int, long: int) -> pytest.MarkDecorator:
    """The number of damages: in a plain run, and in the campaign."""
    in_campaign = pytest.param(long, id="campaign", marks=(pytest.mark.campaign, pytest.mark.timeout(3600)))
    return pytest.mark.parametrize("n_damages", [short, in_campaign])


def assert_sentence_or_same(path: Path, *, n_damages: int, read: Callable[[], Any], same: Callable[[Any], bool]) -> int:
    """Damage a file again and again; returns how often that was noticed. Leaves the file whole."""
    whole, random, sentences = path.read_bytes(), Random(n_damages), []
    for number in range(n_damages):
        path.unlink()  # what was opened before may still be mapped
        path.write_bytes(damaged(whole, random))
        try:
            assert same(read()), f"damage {number} gave another result"
        except UserError as error:
            sentences.append(str(error))
    path.write_bytes(whole)
    assert same(read())
    assert [text for text in sentences if len(text.splitlines()) != 1] == []
    return len(sentences)


def same_model(before: gptlab.Loaded) -> Callable[[gptlab.Loaded], bool]:
    weights = {name: weight.clone() for name, weight in before.model.state_dict().items()}

    def is_same(found: gptlab.Loaded) -> bool:
        theirs = found.model.state_dict()
        equal = theirs.keys() == weights.keys() and all(theirs[name].equal(weights[name]) for name in weights)
        return equal and found.needed_tokenizer().state() == before.needed_tokenizer().state()

    return is_same


@short_and_long(100, 3000)
def test_a_damaged_checkpoint_is_never_another_model(tiny_run: Path, tmp_path: Path, n_damages: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path = run / "checkpoints" / "best.ckpt"
    same = same_model(gptlab.load(run))
    assert assert_sentence_or_same(path, n_damages=n_damages, read=lambda: gptlab.load(run), same=same) > n_damages / 2


@short_and_long(100, 3000)
def test_a_damaged_export_is_never_another_model(tiny_run: Path, tmp_path: Path, n_damages: int) -> None:
    directory = tmp_path / "export"
    export(gptlab.load(tiny_run), str(directory), address="a/b")
    read, same = lambda: gptlab.load(directory), same_model(gptlab.load(directory))
    assert assert_sentence_or_same(directory / WEIGHTS, n_damages=n_damages, read=read, same=same) > n_damages / 2


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@short_and_long(50, 1000)
def test_a_damaged_file_beside_the_weights_is_at_most_a_sentence(
    tiny_run: Path, tmp_path: Path, name: str, n_damages: int
) -> None:
    directory = tmp_path / "export"
    export(gptlab.load(tiny_run), str(directory), address="a/b")
    read = lambda: gptlab.load(directory)  # noqa: E731
    assert_sentence_or_same(directory / name, n_damages=n_damages, read=read, same=lambda found: True)


def test_a_bit_that_flipped_in_an_export_is_named_by_its_tensor(tiny_run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "export"
    export(gptlab.load(tiny_run), str(directory), address="a/b")
    content = bytearray((directory / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (directory / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match=r"the tensor transformer\.\S+ is damaged"):
        gptlab.load(directory)


def test_a_bit_that_flipped_in_the_hubs_cache_is_noticed(tiny_run: Path, tmp_path: Path) -> None:
    """Files of others have no checksum in them; that cache names large files by their sha256."""
    export(gptlab.load(tiny_run), str(tmp_path / "snapshots" / "commit"), address="a/b")
    weights = tmp_path / "snapshots" / "commit" / WEIGHTS
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    blob = tmp_path / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    blob.parent.mkdir()
    shutil.move(weights, blob)
    weights.symlink_to(blob)
    gptlab.load(weights.parent)
    content = bytearray(blob.read_bytes())
    content[-3] ^= 1
    blob.unlink()
    blob.write_bytes(content)
    with pytest.raises(UserError, match=f"its file in the Hub's cache is damaged: delete {blob}"):
        gptlab.load(weights.parent)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "poem.txt").write_text(POEM * 5)
    _prepared(tmp_path)
    return next(path for path in (tmp_path / "cache").iterdir() if path.is_dir())


def _prepared(place: Path) -> Corpus:
    recipe = TokenizerRecipe(BPETokenizer, {"vocab_size": 280})
    return prepare(
        TextFiles(path=str(place / "poem.txt")),
        recipe,
        cache_dir=str(place / "cache"),
        progress=lambda what, pieces: pieces,
    )


@pytest.mark.parametrize("name", ["tokens.bin", "corpus.json"])
@short_and_long(50, 1000)
def test_a_damaged_token_cache_is_made_again(
    tmp_path: Path, cache: Path, name: str, n_damages: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gptlab")
    before = _prepared(tmp_path)
    tokens, state = before.tokens.tolist(), before.tokenizer.state()

    def same(found: Corpus) -> bool:
        return found.tokens.tolist() == tokens and found.tokenizer.state() == state

    read = lambda: _prepared(tmp_path)  # noqa: E731
    assert assert_sentence_or_same(cache / name, n_damages=n_damages, read=read, same=same) == 0
    assert len(caplog.messages) >= 0.9 * n_damages
    assert set(caplog.messages) == {f"the token cache of {tmp_path / 'poem.txt'} is damaged: making it again"}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested dicts and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node[:2]) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


OTHERS = (None, -1, 1.5, 10**30, "x", [1], {"_target_": "x"}, torch.zeros(2))
"""Values of another kind, whatever the place wants."""


@pytest.mark.filterwarnings("ignore")  # torch's, on a list as an index
@short_and_long(150, 2000)
def test_a_checkpoint_with_another_content_is_at_most_a_sentence(
    tiny_run: Path, tmp_path: Path, n_damages: int
) -> None:
    """Such as one that another version wrote, or a person by hand: places missing, values of another kind."""
    whole = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)
    whole = {key: whole[key] for key in ("gptlab", "state_dict", "global_step")}
    random, everywhere, sentences = Random(n_damages), list(places(whole)), []
    for _ in range(n_damages):
        changed = copy.deepcopy(whole)
        *parents, last = random.choice(everywhere)
        node = changed
        for parent in parents:
            node = node[parent]
        if random.random() < 0.2:
            del node[last]
        else:
            node[last] = random.choice(OTHERS)
        torch.save(changed, tmp_path / "changed.ckpt")
        try:
            loaded = gptlab.load(tmp_path / "changed.ckpt")
        except UserError as error:
            sentences.append(str(error))
        else:
            loaded.example_prompt()
            export(loaded, str(tmp_path / "export"), address="a/b")  # the card tells all that is known of it
            shutil.rmtree(tmp_path / "export")
    assert [text for text in sentences if len(text.splitlines()) != 1] == []
    assert len(sentences) > n_damages / 10
