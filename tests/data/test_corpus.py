import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from conftest import POEM
from gptlab.data import corpus as corpus_module
from gptlab.data.corpus import TokenizerRecipe, prepare
from gptlab.data.source import Piece
from gptlab.data.text import TextFiles
from gptlab.errors import UserError
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.char import CharTokenizer

CHAR = TokenizerRecipe(CharTokenizer, {})
BPE = TokenizerRecipe(BPETokenizer, {"vocab_size": 300})


def silent(what: str, pieces: Iterable[Piece]) -> Iterable[Piece]:
    return pieces


class Counting(TextFiles):
    """Counts how often it is read."""

    reads = 0

    def __iter__(self) -> Iterator[Piece]:
        type(self).reads += 1
        return super().__iter__()


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name}: {POEM}")
    return tmp_path / "texts"


def test_tokens_are_the_documents_with_eot_between(poems: Path, tmp_path: Path) -> None:
    corpus = prepare(TextFiles(path=str(poems)), BPE, cache_dir=str(tmp_path / "cache"), progress=silent)
    expected: list[int] = []
    for name in ("a", "b", "c"):
        expected += [*corpus.tokenizer.encode(f"{name}: {POEM}"), corpus.tokenizer.eot]
    assert corpus.tokens.tolist() == expected
    assert corpus.tokens.dtype == np.uint16
    assert isinstance(corpus.tokens, np.memmap)


def test_the_cache_is_keyed_by_content_and_tokenizer(poems: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    Counting.reads = 0
    first = prepare(Counting(path=str(poems)), CHAR, cache_dir=cache, progress=silent)
    reads = Counting.reads
    again = prepare(Counting(path=str(poems)), CHAR, cache_dir=cache, progress=silent)
    assert Counting.reads == reads
    assert np.array_equal(first.tokens, again.tokens)
    assert first.tokenizer.state() == again.tokenizer.state()
    prepare(Counting(path=str(poems)), BPE, cache_dir=cache, progress=silent)
    assert Counting.reads > reads
    reads = Counting.reads
    (poems / "a.txt").write_text("something else")
    prepare(Counting(path=str(poems)), CHAR, cache_dir=cache, progress=silent)
    assert Counting.reads > reads


def test_a_large_vocabulary_gets_four_bytes_a_token(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("".join(chr(code) for code in range(0x10000, 0x10000 + 70_000)))
    corpus = prepare(TextFiles(path=str(tmp_path / "many.txt")), CHAR, cache_dir=str(tmp_path), progress=silent)
    assert corpus.tokens.dtype == np.uint32
    assert corpus.tokens.tolist() == list(range(70_000))


def test_a_failed_preparation_leaves_nothing_that_looks_finished(poems: Path, tmp_path: Path) -> None:
    (poems / "d.txt").write_bytes(b"fine until here \xff")
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="not UTF-8"):
        prepare(TextFiles(path=str(poems)), CHAR, cache_dir=str(cache), progress=silent)
    assert [path.suffix for path in cache.iterdir()] in ([".lock"], [])


KILLED_WHILE_WRITING = """
import os, signal, sys
from gptlab.data import corpus
from gptlab.data.text import TextFiles
from gptlab.tokenizer.char import CharTokenizer

def die(what, pieces):
    for number, piece in enumerate(pieces):
        yield piece
        if what == "writing tokens" and number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

recipe = corpus.TokenizerRecipe(CharTokenizer, {})
corpus.prepare(TextFiles(path=sys.argv[1]), recipe, cache_dir=sys.argv[2], progress=die)
"""


def test_a_killed_preparation_is_made_again(poems: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(poems), cache], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert any(path.name.endswith(".tmp") for path in Path(cache).iterdir())
    corpus = prepare(TextFiles(path=str(poems)), CHAR, cache_dir=cache, progress=silent)
    assert corpus.tokenizer.decode(corpus.tokens.tolist()) == "".join(f"{name}: {POEM}" for name in "abc")
    assert not any(path.name.endswith(".tmp") for path in Path(cache).iterdir())


PREPARES = """
import sys, time
from gptlab.data import corpus
from gptlab.data.text import TextFiles
from gptlab.tokenizer.char import CharTokenizer

def slow(what, pieces):
    print(what, flush=True)
    for piece in pieces:
        time.sleep(0.3)
        yield piece

recipe = corpus.TokenizerRecipe(CharTokenizer, {})
made = corpus.prepare(TextFiles(path=sys.argv[1]), recipe, cache_dir=sys.argv[2], progress=slow)
print(len(made.tokens))
"""


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("name", ["tokens.bin", "corpus.json"])
@pytest.mark.parametrize("damage", [lambda content: content[:-3], lambda content: content + b" ", flipped])
def test_a_damaged_file_is_made_again_with_a_line(
    poems: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    cache, poem = tmp_path / "cache", str(poems)
    whole = prepare(TextFiles(path=poem), CHAR, cache_dir=str(cache), progress=silent).tokens.tolist()
    (file,) = cache.glob(f"*/{name}")
    content = file.read_bytes()
    file.write_bytes(damage(content))
    with caplog.at_level(logging.INFO, "gptlab"):
        again = prepare(TextFiles(path=poem), CHAR, cache_dir=str(cache), progress=silent)
    is_harmless = name == "corpus.json" and damage(content).strip() == content
    assert caplog.messages == ([] if is_harmless else [f"the token cache of {poem} is damaged: making it again"])
    assert again.tokens.tolist() == whole


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    poems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): name another place"):
        prepare(TextFiles(path=str(poems)), CHAR, cache_dir=str(cache), progress=silent)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_whoever_waits_for_another_process_is_told(
    poems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(corpus_module, "SILENT_WAIT", 0.1)
    cache = tmp_path / "cache"
    prepare(TextFiles(path=str(poems)), CHAR, cache_dir=str(cache), progress=silent)
    (directory,) = (path for path in cache.iterdir() if path.is_dir())
    shutil.rmtree(directory)
    has_it = threading.Event()

    def hold() -> None:
        with FileLock(directory.with_suffix(".lock")):
            has_it.set()
            time.sleep(0.5)

    threading.Thread(target=hold).start()
    has_it.wait()
    with caplog.at_level(logging.INFO, "gptlab"):
        prepare(TextFiles(path=str(poems)), CHAR, cache_dir=str(cache), progress=silent)
    assert caplog.messages == [f"waiting for another process, which is preparing {poems}"]


@pytest.mark.slow
def test_two_processes_share_one_preparation(poems: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARES, str(poems), str(tmp_path / "cache")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert all(process.returncode == 0 for process in both)
    assert outputs[0][-1] == outputs[1][-1]
    assert sum("writing tokens" in output for output in outputs) == 1


def test_an_unwritable_cache_is_named(poems: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .* data\.cache_dir="):
        prepare(TextFiles(path=str(poems)), CHAR, cache_dir=str(tmp_path / "file" / "cache"), progress=silent)


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
