import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import POEM
from gptlab.data.base import Piece, Progress
from gptlab.data.corpus import Corpus, load_corpus
from gptlab.data.text import TextFiles
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

CHAR = partial(CharTokenizer.train)
BPE = partial(BPETokenizer.train, vocab_size=300)


def silent(what: str, pieces: Iterable[Piece]) -> Iterable[Piece]:
    return pieces


def text_files(path: Path, cache_dir: Path) -> TextFiles:
    return TextFiles(path=str(path), stride=None, val_fraction=0.1, num_workers=0, cache_dir=str(cache_dir))


def load(path: Path, tokenizer: Any, cache_dir: Path, progress: Progress = silent) -> Corpus:
    text = text_files(path, cache_dir)
    return load_corpus(text, tokenizer, cache_dir=text.cache_dir, progress=progress)


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name}: {POEM}")
    return tmp_path / "texts"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of text files, in order: `hash` of the whole text, `pieces` of it."""
    seen: list[str] = []

    def counting(what: str, method: Callable) -> Callable:
        def call(self: TextFiles) -> Any:
            seen.append(what)
            return method(self)

        return call

    monkeypatch.setattr(TextFiles, "fingerprint", counting("hash", TextFiles.fingerprint))
    monkeypatch.setattr(TextFiles, "pieces", counting("pieces", TextFiles.pieces))
    return seen


def test_tokens_are_the_documents_with_eot_between(poems: Path, cache: Path) -> None:
    corpus = load(poems, BPE, cache)
    expected: list[int] = []
    for name in ("a", "b", "c"):
        expected += [*corpus.tokenizer.encode(f"{name}: {POEM}"), corpus.tokenizer.eot]
    assert corpus.tokens.tolist() == expected
    assert corpus.tokens.dtype == np.uint16
    assert isinstance(corpus.tokens, np.memmap)


def test_the_cache_is_keyed_by_content_and_tokenizer(poems: Path, cache: Path, reads: list[str]) -> None:
    first = load(poems, CHAR, cache)
    assert reads == ["hash", "pieces", "pieces"]
    again = load(poems, CHAR, cache)
    assert reads == ["hash", "pieces", "pieces"]  # nothing is read again
    assert np.array_equal(first.tokens, again.tokens)
    assert (first.tokenizer.state(), first.fingerprint) == (again.tokenizer.state(), again.fingerprint)
    load(poems, BPE, cache)
    assert reads[3:] == ["pieces", "pieces"]
    load(poems, first.tokenizer, cache)  # a tokenizer that is given is not trained
    assert reads[5:] == ["pieces"]
    (poems / "a.txt").write_text("something else")
    load(poems, CHAR, cache)
    assert reads[6:] == ["hash", "pieces", "pieces"]


def test_the_same_content_elsewhere_or_touched_is_not_tokenized_again(
    poems: Path, cache: Path, reads: list[str]
) -> None:
    first = load(poems, CHAR, cache)
    del reads[:]
    os.utime(poems / "a.txt", ns=(1, 1))
    touched = load(poems, CHAR, cache)
    poems.rename(poems.with_name("moved"))
    moved = load(poems.with_name("moved"), CHAR, cache)
    assert reads == ["hash", "hash"]
    assert first.tokens.filename == touched.tokens.filename == moved.tokens.filename


def test_a_start_on_a_prepared_corpus_of_10_gb_takes_under_a_second_more(
    poems: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is a sparse file; its hash is recorded as ever, and the corpus of the poem grows to its size."""
    small = load(poems / "a.txt", BPE, cache)
    huge, n_tokens = poems / "huge.txt", 4_000_000_000
    with huge.open("wb") as file:
        file.truncate(10**10)
    with monkeypatch.context() as patch:
        patch.setattr(TextFiles, "fingerprint", lambda self: small.fingerprint)
        load(huge, BPE, cache)
    os.truncate(small.tokens.filename, 2 * n_tokens)
    metadata_path = Path(small.tokens.filename).with_suffix(".json")
    metadata = json.loads(metadata_path.read_text())
    metadata["n_tokens"] = n_tokens
    metadata_path.write_text(json.dumps(metadata))
    metadata_path.with_suffix(".3600000001-4000000000.bytes").write_text("399999999")
    began = time.monotonic()
    data = text_files(huge, cache).prepare(BPE, context_length=8, progress=silent)
    assert time.monotonic() - began < 1
    assert "4,000,000,000 tokens (400,000,000 for validation)" in data.description
    assert data.val_bytes_per_token == 1  # id 0 is a single byte


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to kill")
def test_two_processes_share_one_preparation_and_a_killed_one_is_made_again(poems: Path, cache: Path) -> None:
    """The other process is killed while it writes; this one waits for it, and then prepares the text itself."""

    def dying(what: str, pieces: Iterable[Piece]) -> Iterable[Piece]:
        for number, piece in enumerate(pieces):
            yield piece
            if what == "writing tokens" and number == 1:
                (cache / "begun").touch()
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)

    other = os.fork()
    if other == 0:
        with suppress(BaseException):
            load(poems, CHAR, cache, progress=dying)
        os._exit(1)
    while not (cache / "begun").exists():
        time.sleep(0.01)
    corpus = load(poems, CHAR, cache)
    dead, status = os.waitpid(other, os.WNOHANG)
    assert dead == other, "this process did not wait for the other"
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert corpus.tokenizer.decode(corpus.tokens.tolist()) == "".join(f"{name}: {POEM}" for name in "abc")
    assert not any(path.name.endswith(".tmp") for path in cache.iterdir())


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_truncated_file_is_made_again(poems: Path, cache: Path, suffix: str) -> None:
    whole = load(poems, CHAR, cache).tokens.tolist()
    (file,) = cache.glob(f"*{suffix}")
    os.truncate(file, file.stat().st_size - 3)
    assert load(poems, CHAR, cache).tokens.tolist() == whole
