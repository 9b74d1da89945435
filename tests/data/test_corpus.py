import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import POEM
from gptlab.data import corpus as corpus_module
from gptlab.data.base import Piece
from gptlab.data.corpus import Corpus, load_corpus
from gptlab.data.text import TextFiles
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

CHAR = partial(CharTokenizer.train)
BPE = partial(BPETokenizer.train, vocab_size=300)


def silent(what: str, pieces: Iterable[Piece]) -> Iterable[Piece]:
    return pieces


def text_files(path: Path, cache_dir: Path) -> TextFiles:
    return TextFiles(path=str(path), stride=None, val_fraction=0.1, num_workers=0, cache_dir=str(cache_dir))


def load(path: Path, tokenizer: Any, cache_dir: Path) -> Corpus:
    text = text_files(path, cache_dir)
    return load_corpus(text, tokenizer, cache_dir=text.cache_dir, progress=silent)


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


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_bytes_are_counted_from_any_token_to_any_other(
    poems: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(corpus_module, "BLOCK", block)
    corpus = load(poems, BPE, cache)
    lengths = corpus.tokenizer.byte_lengths
    n_tokens = len(corpus.tokens)
    for start, stop in ((0, n_tokens), (1, n_tokens), (3, 4), (5, 33), (n_tokens, n_tokens)):
        assert corpus.n_bytes(start, stop) == lengths[corpus.tokens[start:stop]].sum()
    assert load(poems, BPE, cache).n_bytes(0, n_tokens) == sum(file.stat().st_size for file in poems.iterdir())


def test_a_large_vocabulary_gets_four_bytes_a_token(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("".join(chr(code) for code in range(0x10000, 0x10000 + 70_000)))
    corpus = load(tmp_path / "many.txt", CHAR, tmp_path)
    assert corpus.tokens.dtype == np.uint32
    assert corpus.tokens.tolist() == list(range(70_000))


def test_a_failed_preparation_leaves_nothing_that_looks_finished(poems: Path, cache: Path) -> None:
    (poems / "d.txt").write_bytes(b"fine until here \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load(poems, CHAR, cache)
    assert {path.suffix for path in cache.iterdir()} <= {".lock", ".fingerprint"}


SCRIPT = """
import os, signal, sys, time
from functools import partial
from gptlab.data.corpus import load_corpus
from gptlab.data.text import TextFiles
from gptlab.tokenizer.char import CharTokenizer

def die(what, pieces):
    for number, piece in enumerate(pieces):
        yield piece
        if what == "writing tokens" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

def slow(what, pieces):
    print(what, flush=True)
    for piece in pieces:
        time.sleep(0.3)
        yield piece

path, cache, how = sys.argv[1:]
text = TextFiles(path=path, stride=None, val_fraction=0.1, num_workers=0, cache_dir=cache)
corpus = load_corpus(text, partial(CharTokenizer.train), cache_dir=cache, progress=die if how == "die" else slow)
print(len(corpus.tokens))
"""


def test_a_killed_preparation_is_made_again(poems: Path, cache: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(poems), str(cache), "die"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.name.endswith(".tmp") for path in cache.iterdir())
    corpus = load(poems, CHAR, cache)
    assert corpus.tokenizer.decode(corpus.tokens.tolist()) == "".join(f"{name}: {POEM}" for name in "abc")
    assert not any(path.name.endswith(".tmp") for path in cache.iterdir())


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_a_truncated_file_is_made_again(poems: Path, cache: Path, suffix: str) -> None:
    whole = load(poems, CHAR, cache).tokens.tolist()
    (file,) = cache.glob(f"*{suffix}")
    os.truncate(file, file.stat().st_size - 3)
    assert load(poems, CHAR, cache).tokens.tolist() == whole


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    poems: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): name another place"):
        load(poems, CHAR, cache)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.slow
def test_two_processes_share_one_preparation(poems: Path, cache: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(poems), str(cache), "slow"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert all(process.returncode == 0 for process in both)
    assert outputs[0][-1] == outputs[1][-1]
    assert sum("writing tokens" in output for output in outputs) == 1


def test_an_unwritable_cache_is_named(poems: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .* data\.cache_dir="):
        load(poems, CHAR, tmp_path / "file" / "cache")


def test_memory_does_not_grow_with_the_number_of_windows(tmp_path: Path) -> None:
    """338k windows of 256 at stride 1: the textbook's lists of tensors take 1.9 GB."""
    script = (
        "import resource, numpy as np\n"
        "from gptlab.data.windows import WindowDataset\n"
        "tokens = np.zeros(338_000, dtype=np.uint16)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "windows = WindowDataset(tokens, context_length=256, stride=1)\n"
        "for start in range(0, len(windows) - 64, 64): windows.batch(np.arange(start, start + 64))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    began = time.monotonic()
    grown_mib = float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert grown_mib < 60
    assert time.monotonic() - began < 60
