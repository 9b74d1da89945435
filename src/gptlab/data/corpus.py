"""The corpus: a source's tokens in a memory-mapped file, made once and found again."""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from gptlab.data.source import Piece, Source
from gptlab.errors import UserError
from gptlab.files import PARTIAL, sync_directory, whole_file, write_whole
from gptlab.integrity import crc32_of
from gptlab.tokenizer import Tokenizer

log = logging.getLogger("gptlab")

FORMAT = 2  # part of the cache's key: raise it when the files or a tokenizer's training change
TOKENS, FACTS = "tokens.bin", "corpus.json"
CHECKSUM = "crc32"  # 4 GB/s on one core, where the sha256 of the source's text runs at 2
SILENT_WAIT = 2.0  # seconds

Progress = Callable[[str, Iterable[Piece]], Iterable[Piece]]
"""Passes pieces on and shows how many went by: (what is being done, pieces) -> pieces"""

Facts = dict[str, Any]
"""The content of corpus.json: n_tokens, dtype, the checksum of tokens.bin, and the tokenizer's state."""


@dataclass(frozen=True)
class TokenizerRecipe:
    """A tokenizer that is not trained yet: its class, and the settings of its `train`."""

    cls: type[Tokenizer]
    settings: dict[str, Any]

    @property
    def identity(self) -> list[Any]:
        return [f"{self.cls.__module__}.{self.cls.__qualname__}", self.settings]

    def train(self, documents: Iterable[str]) -> Tokenizer:
        return self.cls.train(documents, **self.settings)


@dataclass(frozen=True)
class GivenTokenizer:
    """A tokenizer that came with a model: it takes the place of a recipe."""

    tokenizer: Tokenizer

    @property
    def cls(self) -> type[Tokenizer]:
        return type(self.tokenizer)

    @property
    def identity(self) -> list[Any]:
        return [f"{self.cls.__module__}.{self.cls.__qualname__}", "given", self.tokenizer.state()]

    def train(self, documents: Iterable[str]) -> Tokenizer:
        return self.tokenizer


@dataclass(frozen=True)
class Corpus:
    """Tokens, (n_tokens,) uint16 or uint32, memory-mapped, and the tokenizer that made them."""

    tokens: np.ndarray
    tokenizer: Tokenizer
    fingerprint: str


def prepare(
    source: Source, recipe: TokenizerRecipe | GivenTokenizer, *, cache_dir: str | None, progress: Progress
) -> Corpus:
    """The source's tokens, from the cache where it has them.

    The cache's key is the content of the source and the recipe of the tokenizer. Everything is written into a temporary
    directory that gets its name when it is whole, under a lock: a killed preparation is never taken for a finished one,
    and two processes that want the same corpus make it once. What is found is compared with its checksums, and made
    again where it is damaged.

    Args:
        source: where the text comes from.
        recipe: how the tokenizer is trained on it, or a tokenizer that is there already.
        cache_dir: where the cache lies; None for the user's cache directory.
        progress: shows what is going on.

    Raises:
        UserError: where the source or the cache directory cannot be used, or where a given tokenizer lacks a part of
            the text.
    """
    fingerprint = source.fingerprint()
    key = hashlib.sha256(json.dumps([FORMAT, fingerprint, *recipe.identity]).encode()).hexdigest()[:16]
    cache = Path(cache_dir).expanduser() if cache_dir is not None else user_cache_path("gptlab")
    final = cache / key
    facts = _verified(final)
    if facts is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(cache / f"{key}.lock", source.name):
                facts = _verified(final)  # another process may just have made it
                if facts is None:
                    if final.exists():
                        log.info("the token cache of %s is damaged: making it again", source.name)
                    facts = _make(source, recipe, final, progress)
        except OSError as error:
            raise UserError(
                f"the token cache {cache} cannot be written ({error.strerror or error}): "
                f"name another place with data.cache_dir=<directory>"
            ) from None
    if facts["n_tokens"] == 0:
        raise UserError(f"the text holds no token for {recipe.cls.__name__}: use other text or another tokenizer")
    tokens = TokenFile(final / TOKENS, dtype=facts["dtype"], mode="r", shape=(facts["n_tokens"],))
    return Corpus(tokens, recipe.cls.from_state(facts["tokenizer"]), fingerprint)


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold a lock; who waits for it longer than a moment is told why."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=SILENT_WAIT)
    except Timeout:
        log.info("waiting for another process, which is preparing %s", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _make(source: Source, recipe: TokenizerRecipe | GivenTokenizer, final: Path, progress: Progress) -> Facts:
    partial = final.with_name(final.name + PARTIAL)
    for leftover in (partial, final):  # of a preparation that was killed, or damaged
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        tokenizer = recipe.train(piece.text for piece in progress("building the vocabulary", source))
        dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
        n_tokens = checksum = 0
        with whole_file(partial / TOKENS) as file:
            for ids in _encode(progress("writing tokens", source), tokenizer, dtype, name=source.name):
                content = ids.tobytes()
                file.write(content)
                n_tokens, checksum = n_tokens + len(ids), zlib.crc32(content, checksum)
        facts = {"n_tokens": n_tokens, "dtype": dtype.name, TOKENS: checksum, "tokenizer": tokenizer.state()}
        write_whole(partial / FACTS, json.dumps({CHECKSUM: _checksum(facts), **facts}))
        partial.rename(final)
        sync_directory(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _verified(directory: Path) -> Facts | None:
    """What corpus.json says; None where one of the two files is not what was written."""
    try:
        facts = json.loads((directory / FACTS).read_bytes())
        is_whole = facts.pop(CHECKSUM) == _checksum(facts) and facts[TOKENS] == crc32_of(directory / TOKENS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return facts if is_whole else None


def _checksum(facts: Facts) -> int:
    return zlib.crc32(json.dumps(facts).encode())


class TokenFile(np.memmap):
    """A memory-mapped file of tokens whose slices travel to worker processes by name, not by content."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.base is None or self.filename is None:  # a copy in memory that is no part of a file
            return np.asarray(self).__reduce__()  # type: ignore[return-value]
        start_of_file = np.frombuffer(self._mmap, dtype=np.uint8).ctypes.data  # type: ignore[attr-defined]
        offset = self.ctypes.data - start_of_file
        return TokenFile, (self.filename, self.dtype.str, "r", offset, self.shape)


def _encode(pieces: Iterable[Piece], tokenizer: Tokenizer, dtype: np.dtype, *, name: str) -> Iterator[np.ndarray]:
    """Ids of each piece in order, the end-of-text token behind each document.

    Threads, because tiktoken lets go of the interpreter while it encodes. Only a few pieces are under way at a time, so
    memory stays flat.
    """

    def encode(piece: Piece) -> np.ndarray:
        try:
            ids = np.array(tokenizer.encode(piece.text), dtype=dtype)
        except ValueError as error:  # a closed vocabulary that came with a model, and a text of other parts
            raise UserError(f"{name}: {error}") from None
        if piece.ends_document and tokenizer.eot is not None:
            ids = np.append(ids, np.array(tokenizer.eot, dtype=dtype))
        return ids

    n_threads = os.cpu_count() or 1
    under_way: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(n_threads) as threads:
        for piece in pieces:
            under_way.append(threads.submit(encode, piece))
            if len(under_way) > 2 * n_threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
