"""The token cache: a text's tokens in a memory-mapped file, written once and found again."""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path

from gptlab.data.base import Piece, Progress, TokenizerFactory
from gptlab.errors import UserError
from gptlab.files import whole_file, write_whole
from gptlab.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gptlab.data.text_windows import TextWindows

FORMAT = 3  # part of the cache's key: raise it when the files or a tokenizer's training change
BLOCK = 1 << 20  # tokens


class TokenFile(np.memmap):
    """Tokens in a file, from `offset` bytes on, memory-mapped. It is pickled as its place, not as its content."""

    def __new__(cls, path: Path | str, dtype: str, offset: int, n_tokens: int) -> "TokenFile":
        return super().__new__(cls, path, dtype, "r", offset, (n_tokens,))  # type: ignore[return-value]

    def part(self, start: int, stop: int) -> "TokenFile":
        """Tokens [start, stop) of the file, as a mapping of their own."""
        return TokenFile(str(self.filename), self.dtype.str, start * self.itemsize, stop - start)

    def release(self) -> None:
        """Give back the memory of what was read: it stays in the system's cache of files."""
        if isinstance(self.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            self.base.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self.base, mmap.mmap):  # a view or a copy, which does not know its place
            return np.asarray(self).__reduce__()  # type: ignore[return-value]
        return TokenFile, (str(self.filename), self.dtype.str, self.offset, len(self))


@dataclass(frozen=True)
class Corpus:
    """A text as tokens, (n_tokens,) uint16 or uint32, and the tokenizer that made them."""

    tokens: TokenFile
    tokenizer: Tokenizer
    fingerprint: str

    def n_bytes(self, start: int, stop: int) -> int | None:
        """UTF-8 bytes of tokens [start, stop), counted once and recorded in the cache; None if they are not known."""
        lengths = self.tokenizer.byte_lengths
        if lengths is None:
            return None
        blocks = (self.tokens[i : min(i + BLOCK, stop)] for i in range(start, stop, BLOCK))
        record = Path(str(self.tokens.filename)).with_suffix(f".{start}-{stop}.bytes")
        return int(recorded(record, lambda: str(sum(int(lengths[block].sum()) for block in blocks))))


def load_corpus(
    text: "TextWindows", tokenizer: Tokenizer | TokenizerFactory, *, cache_dir: str | None, progress: Progress
) -> Corpus:
    """The tokens of a text, from the cache if it has them.

    The key of the cache is the content of the text, and the tokenizer or how it is trained. The tokens are <key>.bin;
    <key>.json is written after them, so a killed preparation is never taken for a finished one. Raises UserError if the
    text or the cache directory cannot be used, or if the tokenizer lacks a part of the text.
    """
    cache = cache_directory(cache_dir)
    fingerprint = read_fingerprint(text, cache)
    cls, settings = _identity(tokenizer)
    path = cache / f"{cache_key(FORMAT, fingerprint, f'{cls.__module__}.{cls.__qualname__}', settings)}.bin"
    metadata = _read(path)
    if metadata is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                metadata = _read(path) or _make(text, tokenizer, path, progress)
        except OSError as error:
            reason = f"the token cache {cache} cannot be written ({error.strerror or error})"
            raise UserError(f"{reason}: name another place with data.cache_dir=<directory>") from None
    tokens = TokenFile(path, metadata["dtype"], 0, metadata["n_tokens"])
    return Corpus(tokens, cls.from_state(metadata["tokenizer"]), fingerprint)


def read_fingerprint(text: "TextWindows", cache: Path) -> str:
    """The content hash of a text. It is kept under the text's stamp, and computed again only if that has changed."""
    stamp = text.stamp()
    if stamp is None:
        return text.fingerprint()
    record = cache / f"{cache_key(type(text).__module__, type(text).__qualname__, stamp)}.fingerprint"
    return recorded(record, text.fingerprint)


def recorded(record: Path, compute: Callable[[], str]) -> str:
    """The content of a small file in the cache, which is computed and written if there is none."""
    with suppress(OSError):
        if content := record.read_text():
            return content
    value = compute()
    with suppress(OSError):  # a cache that is read-only may have the corpus
        record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, value)
    return value


def cache_directory(cache_dir: str | None) -> Path:
    """What `data.cache_dir` names; the user's cache directory if that is null."""
    return Path(cache_dir).expanduser() if cache_dir is not None else user_cache_path("gptlab")


def cache_key(*parts: Any) -> str:
    """The beginning of a file's name in the cache, a hash of plain data."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _identity(tokenizer: Tokenizer | TokenizerFactory) -> tuple[type[Tokenizer], Any]:
    """The tokenizer's class, and the settings of its training or its state."""
    if isinstance(tokenizer, partial):
        return tokenizer.func.__self__, tokenizer.keywords  # type: ignore[attr-defined]
    return type(tokenizer), ["given", tokenizer.state()]


def _read(path: Path) -> dict[str, Any] | None:
    """What <key>.json says of <key>.bin; None if it cannot be read or does not fit."""
    try:
        metadata = json.loads(path.with_suffix(".json").read_bytes())
        n_bytes = metadata["n_tokens"] * np.dtype(metadata["dtype"]).itemsize
        return metadata if path.stat().st_size == n_bytes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(
    text: "TextWindows", tokenizer: Tokenizer | TokenizerFactory, path: Path, progress: Progress
) -> dict[str, Any]:
    """Train the tokenizer if need be, and write both files; returns the content of <key>.json."""
    if isinstance(tokenizer, partial):
        tokenizer = tokenizer(piece.text for piece in progress("building the vocabulary", text.pieces()))
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    with whole_file(path) as file:
        for ids in _encode(progress("writing tokens", text.pieces()), tokenizer, dtype, name=text.name):
            file.write(ids.tobytes())
        n_tokens = file.tell() // dtype.itemsize
        if n_tokens == 0:
            raise UserError(f"the text holds no token for {type(tokenizer).__name__}: use another text or tokenizer")
    metadata = {"n_tokens": n_tokens, "dtype": dtype.name, "tokenizer": tokenizer.state()}
    write_whole(path.with_suffix(".json"), json.dumps(metadata))
    return metadata


def _encode(pieces: Iterable[Piece], tokenizer: Tokenizer, dtype: np.dtype, *, name: str) -> Iterator[np.ndarray]:
    """Ids of each piece in order, with the end-of-text token after each document; tiktoken runs in threads."""

    def encode(piece: Piece) -> np.ndarray:
        try:
            ids = tokenizer.encode(piece.text)
        except ValueError as error:  # a closed vocabulary that came with a model
            raise UserError(f"{name}: {error}") from None
        ends = piece.ends_document and tokenizer.eot is not None
        return np.array([*ids, tokenizer.eot] if ends else ids, dtype=dtype)

    n_threads = os.cpu_count() or 1
    remaining = iter(pieces)
    with ThreadPoolExecutor(n_threads) as threads:
        while some := list(islice(remaining, 2 * n_threads)):
            yield from threads.map(encode, some)
